from pathlib import Path
from hub_card.build_card import main
def test_x(tiny_release: Path, capsys):
    assert main(["--model", str(tiny_release), "--no-arena-because", "no battles were at hand.", "--repo", "tester/apex"]) == 0, capsys.readouterr().err
    Path("/tmp/card.md").write_text((tiny_release / "README.md").read_text())

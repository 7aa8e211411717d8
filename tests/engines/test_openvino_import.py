"""What importing OpenVINO through this package leaves out."""

import subprocess
import sys

import pytest
from patience import PATIENCE

PROGRAM = """
import sys
from modeling_apex.engines.openvino_engine import import_openvino
import_openvino()
import nncf, openvino.tools.ovc.telemetry_utils as converter
assert sys.modules["openvino_telemetry"] is None
assert not hasattr(sys.modules["nncf.telemetry.wrapper"], "Telemetry")
assert converter.tm.__name__.endswith("telemetry_stub")
"""


def test_nothing_is_reported_to_anyone() -> None:
    pytest.importorskip("nncf")
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr

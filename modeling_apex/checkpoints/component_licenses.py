"""
What the parts of a model are licensed under, and what the licence of the whole must then respect.

What comes in are the names of sources (Hub ids) that a model's facts mention; what leaves are their licences and the
one identifier that a card may carry. Standard library only: cards and checks read it where no model runs.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class License:
    """A licence as far as a user of weights must know it."""

    name: str
    url: str
    allows_commercial_use: bool
    allows_adaptations: bool = True  # whether what was made from the work may be shared
    needs_same_license: bool = False  # whether an adaptation must carry the same one


@dataclass(frozen=True)
class Component:
    """Something that a model is made of or was trained with."""

    name: str  # its Hub id, or another public name
    role: str  # what it is to the model: "code", "encoder", "heads", "labels" or "songs"
    license_id: str | None  # the Hub's identifier; None where its owner states none
    is_in_weights: bool = False  # whether its numbers are stored in the model's own weights


_CC = "https://creativecommons.org/licenses/"
LICENSES = {
    "apache-2.0": License("Apache License 2.0", "https://www.apache.org/licenses/LICENSE-2.0", True),
    "mit": License("MIT License", "https://opensource.org/license/mit", True),
    "cc0-1.0": License("CC0 1.0", "https://creativecommons.org/publicdomain/zero/1.0/", True),
    "cc-by-4.0": License("CC BY 4.0", f"{_CC}by/4.0/", True),
    "cc-by-sa-4.0": License("CC BY-SA 4.0", f"{_CC}by-sa/4.0/", True, needs_same_license=True),
    "cc-by-nc-4.0": License("CC BY-NC 4.0", f"{_CC}by-nc/4.0/", False),
    "cc-by-nc-sa-4.0": License("CC BY-NC-SA 4.0", f"{_CC}by-nc-sa/4.0/", False, needs_same_license=True),
    "cc-by-nc-nd-4.0": License("CC BY-NC-ND 4.0", f"{_CC}by-nc-nd/4.0/", False, allows_adaptations=False),
}
# What a model of this package can be built from, as its owners license it on the Hub.
CODE = Component("apex-music (this code)", "code", "apache-2.0")
SYNTHETIC_SONGS = Component("synthetic songs of apex-music", "songs", "apache-2.0")
KNOWN_COMPONENTS = (
    Component("m-a-p/MERT-v1-95M", "encoder", "cc-by-nc-4.0", is_in_weights=True),
    Component("m-a-p/MERT-v1-330M", "encoder", "cc-by-nc-4.0", is_in_weights=True),
    Component("OpenMuQ/MuQ-large-msd-iter", "encoder", "cc-by-nc-4.0", is_in_weights=True),
    Component("apex-tiny", "encoder", "apache-2.0", is_in_weights=True),
    Component("ASLP-lab/SongEval", "labels", "cc-by-nc-sa-4.0"),
    Component("sleeping-ai/suno-307K", "songs", "cc-by-nc-nd-4.0"),
    Component("sleeping-ai/Udio-126K", "songs", None),
    Component("nyuuzyou/suno", "songs", "cc0-1.0"),
    Component("music-arena/music-arena-dataset", "songs", "cc-by-4.0"),
)
# The Hub knows these two for what its list does not name; `other` needs a name and a link beside it.
COMBINED_LICENSE_ID = "other"
COMBINED_LICENSE_NAME = "licenses-of-the-components"


def find_component(source: str) -> Component | None:
    """Find a known component by its Hub id, or the name of a folder that it was downloaded to."""
    plain = re.sub(r"@.*$", "", source.strip()).rstrip("/").lower()
    names = {component.name.lower(): component for component in KNOWN_COMPONENTS}
    names |= {name.rpartition("/")[2]: component for name, component in names.items()}
    return names.get(plain)


def compute_combined_license(components: Iterable[Component]) -> str:
    """
    Compute the licence identifier that a model of these components may carry.

    Returns:
        `str`: the one licence beside the permissive ones, `"apache-2.0"` where all are permissive, and `"other"` where
        several restrict, or one is not stated: the card then names each.
    """
    restricting = set()
    for component in components:
        license = LICENSES.get(component.license_id or "")
        if license is None or not is_permissive(license):
            restricting.add(component.license_id)
    if not restricting:
        return "apache-2.0"
    return restricting.pop() or COMBINED_LICENSE_ID if len(restricting) == 1 else COMBINED_LICENSE_ID


def is_permissive(license: License) -> bool:
    """Tell whether a licence asks for no more than to name the author."""
    return license.allows_commercial_use and license.allows_adaptations and not license.needs_same_license

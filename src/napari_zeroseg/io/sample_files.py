"""Real pictures that come with other packages."""

from __future__ import annotations

from pathlib import Path

from napari_zeroseg.errors import ReadError


def chest_radiograph() -> Path:
    """Return where the chest CR of the package pydicom-data lies, a DICOM of 1955 x 1841 pixels.

    Raises
    ------
    ReadError
        If the package is not installed.
    """
    from pydicom.data import get_testdata_file

    # download=False: the first minute works offline, and nothing is fetched without being asked for.
    found = get_testdata_file("RG1_UNCR.dcm", download=False)
    if not isinstance(found, str):
        raise ReadError(
            "The chest radiograph comes with the package pydicom-data, which is not installed: run "
            "'pip install napari-zeroseg[samples]'."
        )
    return Path(found)

"""tests/lab/test_hostile_files.py is quick enough to be run whole; here its artefacts are counted
and put on record.
"""

import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

from tests.long.reliability import record

FILE = Path(__file__).parents[1] / "lab" / "test_hostile_files.py"


def test_every_hostile_file_name_and_parameter_is_refused(tmp_path):
    begun = time.time()
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            str(FILE),
            "-k",
            "not trace",
            f"--junitxml={tmp_path}/report.xml",
        ]
    )
    found = ElementTree.parse(tmp_path / "report.xml").getroot().find("testsuite")
    tried = int(found.get("tests"))
    survived = tried - sum(int(found.get(kind)) for kind in ("failures", "errors", "skipped"))
    record("hostile files, names and parameters refused", tried, survived, time.time() - begun)
    assert tried >= 20 and survived == tried

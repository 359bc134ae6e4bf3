"""``python -m speechdlm_ext``: the report, and the folder alone for use in a command line."""

from __future__ import annotations

import platform
from importlib.metadata import version


def test_user_dir_is_the_folder_and_nothing_else(run_command, checkout):
    done = run_command(["python", "-m", "speechdlm_ext", "--user-dir"])
    assert (done.stdout, done.stderr) == (f"{checkout / 'speechdlm_ext'}\n", "")


def test_user_dir_does_not_wait_for_torch(run_command):
    code = "import sys, runpy; sys.argv = ['speechdlm_ext', '--user-dir']\n"
    code += "try: runpy.run_module('speechdlm_ext', run_name='__main__')\n"
    code += "except SystemExit: print(sorted({'torch', 'numpy', 'fairseq'} & set(sys.modules)))"
    assert run_command(["python", "-c", code]).stdout.splitlines()[-1] == "[]"


def test_the_report_names_versions_and_repairs(run_command, checkout):
    shown = run_command(["python", "-m", "speechdlm_ext"]).stdout
    rows = dict(line.split(None, 1) for line in shown.split("\n\n")[0].splitlines())
    assert rows["--user-dir"] == str(checkout / "speechdlm_ext")
    assert rows["Python"].startswith(platform.python_version())
    for package in ("torch", "torchaudio", "fairseq"):
        assert rows[package] == version(package)
    assert rows["devices"].startswith("CPU (")
    assert "[x] checkpoint-loading" in shown


def test_a_package_that_cannot_be_imported_is_one_line_of_the_report(run_command, tmp_path):
    (tmp_path / "torchaudio.py").write_text("raise OSError('no such library:\\n lib.so')")
    code = "import sys; sys.path.insert(0, sys.argv[1]); from speechdlm_ext.__main__ import report"
    code += "; print(*report(), sep='\\n')"
    shown = run_command(["python", "-c", code, tmp_path]).stdout
    (row,) = (line for line in shown.splitlines() if line.startswith("torchaudio "))
    assert "cannot be imported (OSError: no such library: lib.so)" in row


def test_a_wrong_option_is_refused(run_command):
    assert run_command(["python", "-m", "speechdlm_ext", "--userdir"], check=False).returncode == 2

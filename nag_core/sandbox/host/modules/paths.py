"""Where the host, its data and the extension live."""

import tempfile
from pathlib import Path

from modules.shared_cmd_options import cmd_opts

script_path = str(Path(__file__).resolve().parents[1])
extension_path = str(Path(__file__).resolve().parents[4])

_temporary = None if cmd_opts.data_dir else tempfile.TemporaryDirectory(prefix="nag-sandbox-")
data_path = cmd_opts.data_dir or _temporary.name
Path(data_path).mkdir(parents=True, exist_ok=True)

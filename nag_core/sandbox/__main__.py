"""Command line: `python -m nag_core.sandbox [--setup] [--port 7860]`."""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import os
import socket
import sys
from typing import NoReturn

from nag_core.sandbox import setup
from nag_core.sandbox.makes import MAKES

NEEDED = ("torch", "numpy", "PIL", "gradio", "fastapi", "uvicorn", "safetensors")
INSTALL = "start it with --setup, which loads them into .venv"
BAD_USE, BAD_PORT, BAD_SETUP = 2, 1, 3


class OneLineParser(argparse.ArgumentParser):
    """Says what is wrong with the arguments without repeating them all."""

    def error(self, message: str) -> NoReturn:
        """One line and exit code 2."""
        self.exit(BAD_USE, f"nag sandbox: {message} (see --help)\n")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line as attributes."""
    parser = OneLineParser(prog="python -m nag_core.sandbox", description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "--setup", action="store_true", help="first make .venv with all that is needed, and go on in it"
    )
    parser.add_argument("--port", type=_port, default=7860, help="port to serve on (default 7860)")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to bind (default 127.0.0.1: this machine only)"
    )
    parser.add_argument("--nowebui", action="store_true", help="serve the API without the page")
    parser.add_argument(
        "--api-auth", metavar="USER:PASSWORD", type=_pairs, help="protect the API; comma separated"
    )
    parser.add_argument(
        "--data-dir", help="keep settings and params.txt here (default: a folder removed at exit)"
    )
    parser.add_argument("--scripts-dir", help="load scripts from here instead of this extension's scripts/")
    parser.add_argument(
        "--make",
        choices=MAKES,
        default=MAKES[0],
        help="which release of a WebUI to stand in for: their functions take other arguments",
    )
    return parser.parse_args(argv)


def _port(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port number from 1 to 65535")
    return int(text)


def _pairs(text: str) -> str:
    if not all(":" in pair for pair in text.split(",")):
        raise argparse.ArgumentTypeError("expected USER:PASSWORD")
    return text


def _port_error(host: str, port: int) -> str | None:
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            if os.name == "posix":
                # A port whose last connections are still closing counts as free, as it does for the server.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        return f"cannot serve on {host}:{port}: {error.strerror or error}; choose another with --port"
    return None


def _fail(message: str, code: int) -> int:
    sys.stderr.write(f"nag sandbox: {message}\n")
    return code


def _set_up(argv: list[str], problem: str | None) -> int:
    """Goes on in `.venv`. A port that is in use is said before anything is loaded."""
    if problem:
        return _fail(problem, BAD_PORT)
    try:
        python = setup.prepare()
    except setup.SetupError as error:
        return _fail(str(error), BAD_SETUP)
    return setup.go_on(python, [one for one in argv if one != "--setup"])


def main(argv: list[str] | None = None) -> int:
    """Serve until interrupted; the exit code says what went wrong, in one line on stderr."""
    args = parse_args(argv)
    if args.setup:
        return _set_up(sys.argv[1:] if argv is None else argv, _port_error(args.host, args.port))
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        return _fail(f"missing packages: {', '.join(missing)}; {INSTALL}", BAD_USE)
    if not importlib.metadata.version("gradio").startswith("4."):
        return _fail(f"the page is built with gradio 4.40, this is another version; {INSTALL}", BAD_USE)
    problem = _port_error(args.host, args.port)
    if problem:
        return _fail(problem, BAD_PORT)
    sys.stdout.write("nag sandbox: starting, which takes some seconds\n")
    sys.stdout.flush()
    from nag_core.sandbox.app import create_app
    from nag_core.sandbox.bootstrap import HostPresentError

    try:
        app = create_app(
            {
                "port": args.port,
                "server_name": args.host,
                "nowebui": args.nowebui,
                "api_auth": args.api_auth,
                "data_dir": args.data_dir,
                "scripts_dir": args.scripts_dir,
                "make": args.make,
            }
        )
    except (HostPresentError, ValueError) as error:
        return _fail(str(error), BAD_USE)
    import uvicorn

    sys.stdout.write(f"NAG sandbox on http://{args.host}:{args.port} (Ctrl+C stops it)\n")
    sys.stdout.flush()
    uvicorn.run(app, host=args.host, port=args.port, log_level="warning", access_log=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())

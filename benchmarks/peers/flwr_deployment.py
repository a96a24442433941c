"""Flower's deployment engine: a SuperLink and SuperNodes as processes, one exchange a round.

Run in Flower's environment: python flwr_deployment.py data.npz sites rounds out.json started
workspace. The app is that of `flwr_app` without the simulation. Connections are not encrypted and
the SuperLink keeps its state in memory: less than what it is compared with does.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
LIMIT_SECONDS = 200
PORT = 29091
PROJECT = """[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "netapp"
version = "1.0.0"
license = "Apache-2.0"
dependencies = ["flwr", "numpy"]
[tool.hatch.build.targets.wheel]
packages = ["."]
[tool.flwr.app]
publisher = "benchmark"
[tool.flwr.app.components]
serverapp = "netapp.app:server"
clientapp = "netapp.app:client"
[tool.flwr.app.config]
"""


def write_app(place: Path) -> None:
    """Make a Flower app of `flwr_app`, which takes its words from the environment."""
    package = place / "netapp"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "newton.py").write_text((HERE / "newton.py").read_text())
    source = (HERE / "flwr_app.py").read_text().split('if __name__ == "__main__":')[0]
    source = source.replace("sys.argv[1:6]", 'os.environ["BENCH"].split("|")')
    source = source.replace("import json\n", "import json\nimport os\n", 1)
    source = source.replace("from flwr.simulation import run_simulation\n", "")
    source = source.replace("from newton", "from netapp.newton")
    (package / "app.py").write_text(source)
    (place / "pyproject.toml").write_text(PROJECT)


def main() -> None:
    """Start SuperLink and SuperNodes, run the app, and end them."""
    data, sites, rounds, out, started, workspace = sys.argv[1:7]
    work = Path(workspace)
    write_app(work / "app")
    home = work / "home"
    home.mkdir()
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "here"\n[superlink.here]\naddress = "127.0.0.1:{PORT}"\n'
        "insecure = true\n"
    )
    programs = Path(sys.executable).parent
    environment = {
        **os.environ,
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "BENCH": "|".join((data, sites, rounds, out, started)),
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
    }
    started_ones: list[subprocess.Popen[bytes]] = []

    def start(*words: str) -> None:
        with (work / f"{len(started_ones)}.log").open("wb") as log:
            started_ones.append(
                subprocess.Popen(
                    words, stdout=log, stderr=subprocess.STDOUT, env=environment, cwd=work
                )
            )

    try:
        start(
            *(str(programs / "flower-superlink"), "--insecure"),
            *("--disable-runtime-dependency-installation", "--port", str(PORT)),
        )
        time.sleep(4)
        for number in range(int(sites)):
            start(
                *(str(programs / "flower-supernode"), "--insecure"),
                *("--superlink", f"127.0.0.1:{PORT}", "--port", str(PORT + 1 + number)),
                *("--node-config", f"partition-id={number}"),
            )
        time.sleep(4)
        subprocess.run(
            [str(programs / "flwr"), "run", str(work / "app"), "here"],
            env=environment,
            cwd=work,
            check=True,
            timeout=60,
        )
        end = time.monotonic() + LIMIT_SECONDS
        while not Path(out).exists() and time.monotonic() < end:
            time.sleep(0.2)
    finally:
        for one in reversed(started_ones):
            one.terminate()
        for one in started_ones:
            try:
                one.wait(10)
            except subprocess.TimeoutExpired:
                one.kill()


if __name__ == "__main__":
    main()

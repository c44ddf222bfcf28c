"""The page of `pcl demo` as a newcomer uses it: open it, send one recording, stop it.

demo.py MODEL FOLDER
"""

import signal
import subprocess
import sys
from pathlib import Path

import httpx


def main(model: str, folder: str) -> None:
    """End with an error unless the page opens, predicts and stops."""
    recording = min(Path(folder).rglob("*.wav")).read_bytes()
    command = [str(Path(sys.executable).with_name("pcl")), "demo", model]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as page:
        try:
            assert page.stdout is not None
            address = page.stdout.readline().removeprefix("page: ").strip()
            with httpx.Client(base_url=address, timeout=120, trust_env=False) as client:
                assert "pcl demo" in client.get("").raise_for_status().text
                answer = client.post("predict", content=recording)
                probabilities = answer.raise_for_status().json()["probabilities"]
        finally:
            page.send_signal(signal.SIGTERM)
        assert page.wait(timeout=60) == 0
    assert abs(sum(probabilities) - 1) < 1e-6, probabilities
    print(f"page: {address}; probabilities {probabilities}")


if __name__ == "__main__":
    main(*sys.argv[1:])

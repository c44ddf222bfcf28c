"""Decoding of uploads, which nobody has checked, in a process of its own with limits on memory and time.

    python -m pcl_jax.demo.decode PATH SECONDS

The process writes the waveform, float32 at 16 kHz, to its standard output, or one line to its standard error.
Whatever a file does to a decoder, the server goes on.
"""

import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from pcl_jax.audio import AudioError, Waveform, duration_s, one_line, read

MEMORY_BYTES = 2 * 2**30
"""Address space of the process; numpy and the decoders map about 0.7 GiB of it before they begin."""
CPU_S, WALL_S = 30, 60
"""Time that one file may take."""
REFUSED = 3
"""Exit code for a file that cannot be used: the line says why."""


class UploadError(ValueError):
    """An upload that cannot be used: one line for whoever sent it."""


def decode(content: bytes, longest_s: float) -> Waveform:
    """Decode the content of an audio file; nothing of it stays on the disk.

    Args:
        content: Bytes of the file.
        longest_s: Duration of the longest waveform that is returned, in seconds.

    Raises:
        UploadError: It is no audio, it is damaged, silent or too long, or decoding it takes too much.
    """
    with tempfile.TemporaryDirectory(prefix="pcl-demo-") as folder:
        path = Path(folder) / "upload"
        path.write_bytes(content)
        command = [sys.executable, "-m", "pcl_jax.demo.decode", str(path), str(longest_s)]
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=WALL_S,
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            )
        except subprocess.TimeoutExpired:
            raise UploadError(f"decoding takes more than {WALL_S} s; convert the file to WAV") from None
        if done.returncode == REFUSED:
            line = done.stderr.decode(errors="replace").strip().splitlines()[-1]
            raise UploadError(line.replace(f"{path}: ", ""))
        if done.returncode:
            raise UploadError("decoding failed: the file is damaged, or needs too much memory or time")
    return np.frombuffer(done.stdout, np.float32)


def main(path: Path, longest_s: float) -> int:
    """Decode a file within the limits; return the exit code."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    try:
        length_s = duration_s(path)
        if length_s > longest_s:
            raise UploadError(
                f"lasts {length_s:.0f} s; this page takes {longest_s:.0f} s at most (pcl predict more)"
            )
        waveform = read(path)
    except AudioError as error:
        print(one_line(f"{error.fault}"), file=sys.stderr)
        return REFUSED
    except UploadError as error:
        print(error, file=sys.stderr)
        return REFUSED
    sys.stdout.buffer.write(waveform.tobytes())
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), float(sys.argv[2])))

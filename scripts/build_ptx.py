#!/usr/bin/env python3
"""Compiles src/cuda/kernels to the PTX in src/cuda/ptx, which is committed and embedded in the library.

    scripts/build_ptx.py            compiles what has changed
    scripts/build_ptx.py --check    compiles everything and fails unless the committed files are what comes out

One file, gzipped, holds the kernels of one storage type for one architecture: `zcat` shows it. NVRTC 12.0.140 makes PTX ISA 8.0, which every driver of
CUDA 12.0 and later loads; it needs no GPU. It is fetched from PyPI with pip into a cache unless NVRTC_DIR names the folder of
libnvrtc.so.12. src/cuda/ptx/hash is over sources, options and the compiler's version, so that a change of any of them is seen.
"""

import argparse
import ctypes
import gzip
import hashlib
import os
import pathlib
import subprocess
import sys
import zipfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
KERNELS = ROOT / "src/cuda/kernels"
PTX = ROOT / "src/cuda/ptx"
PACKAGE = "nvidia-cuda-nvrtc-cu12==12.0.140"
# Architecture: storage types. bf16 products need compute capability 8.0, where f16 copies asynchronously; f32 gains nothing.
MODULES = {75: ["f32", "f16"], 80: ["f16", "bf16"]}
OPTIONS = ["--std=c++17", "--fmad=true"]


def nvrtc() -> ctypes.CDLL:
    """Loads NVRTC, fetching it if need be."""
    folder = os.environ.get("NVRTC_DIR")
    if folder is None:
        cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache"))
        cache /= "foretune/" + PACKAGE.replace("==", "-")
        folder = cache / "nvidia/cuda_nvrtc/lib"
        if not folder.exists():
            cache.mkdir(parents=True, exist_ok=True)
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
            subprocess.run([*pip, "--dest", str(cache), PACKAGE], check=True)
            for wheel in cache.glob("*.whl"):
                zipfile.ZipFile(wheel).extractall(cache)
    folder = pathlib.Path(folder)
    ctypes.CDLL(str(folder / "libnvrtc-builtins.so.12.0"), mode=ctypes.RTLD_GLOBAL)
    return ctypes.CDLL(str(folder / "libnvrtc.so.12"))


def options(architecture: int, storage: str) -> list[str]:
    return [f"--gpu-architecture=compute_{architecture}", f"-DSTORAGE_{storage.upper()}", *OPTIONS]


def source_hash() -> str:
    digest = hashlib.sha256(PACKAGE.encode())
    for file in sorted(KERNELS.iterdir()):
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    for architecture, storages in MODULES.items():
        for storage in storages:
            digest.update("\0".join(options(architecture, storage)).encode())
    return digest.hexdigest()


def compile_module(library: ctypes.CDLL, architecture: int, storage: str) -> str:
    """PTX of all kernels of a storage type for an architecture."""
    headers = {file.name: file.read_bytes() for file in sorted(KERNELS.glob("*.cuh"))}
    kernels = [file for file in sorted(KERNELS.glob("*.cu"))]
    names = [name.encode() for name in headers] + [file.name.encode() for file in kernels]
    texts = list(headers.values()) + [file.read_bytes() for file in kernels]
    source = "".join(f'#include "{file.name}"\n' for file in kernels).encode()

    def check(status: int, program: ctypes.c_void_p | None = None) -> None:
        if status == 0:
            return
        size, log = ctypes.c_size_t(), b""
        if program is not None:
            library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
            buffer = ctypes.create_string_buffer(size.value)
            library.nvrtcGetProgramLog(program, buffer)
            log = buffer.value
        sys.exit(f"error: {storage} for compute_{architecture}: NVRTC status {status}\n{log.decode()}")

    program = ctypes.c_void_p()
    array = lambda items: (ctypes.c_char_p * len(items))(*items)
    name = f"{storage}.cu".encode()
    check(library.nvrtcCreateProgram(ctypes.byref(program), source, name, len(names), array(texts), array(names)))
    flags = [option.encode() for option in options(architecture, storage)]
    check(library.nvrtcCompileProgram(program, len(flags), array(flags)), program)
    size = ctypes.c_size_t()
    check(library.nvrtcGetPTXSize(program, ctypes.byref(size)))
    ptx = ctypes.create_string_buffer(size.value)
    check(library.nvrtcGetPTX(program, ptx))
    check(library.nvrtcDestroyProgram(ctypes.byref(program)))
    return ptx.value.decode()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; fail unless the committed files are current")
    check = parser.parse_args().check
    stamp, digest = PTX / "hash", source_hash()
    if not check and stamp.exists() and stamp.read_text().strip() == digest:
        return
    library = nvrtc()
    PTX.mkdir(exist_ok=True)
    for architecture, storages in MODULES.items():
        for storage in storages:
            file = PTX / f"{storage}_{architecture}.ptx.gz"
            ptx = compile_module(library, architecture, storage).encode()
            if not check:
                file.write_bytes(gzip.compress(ptx, mtime=0))
                print(f"{file.relative_to(ROOT)}: {len(ptx)} bytes, {file.stat().st_size} compressed")
            elif not file.exists() or gzip.decompress(file.read_bytes()) != ptx:
                sys.exit(f"error: {file.relative_to(ROOT)} is not what its sources compile to; run scripts/build_ptx.py")
    if not check:
        stamp.write_text(digest + "\n")
    elif not stamp.exists() or stamp.read_text().strip() != digest:
        sys.exit("error: src/cuda/ptx/hash is not the sources'; run scripts/build_ptx.py")


if __name__ == "__main__":
    main()

"""The C extension; everything else stands in pyproject.toml. No torch is needed to build."""

from setuptools import Extension, setup

LIMITED_API = "0x030a0000"  # Python 3.10

setup(
    ext_modules=[
        Extension(
            "torch_autokernel._launcher",
            sources=[
                "csrc/module.c", "csrc/launcher.c", "csrc/plan.c", "csrc/match.c", "csrc/indices.c", "csrc/workspace.c",
                "csrc/pages.c", "csrc/call_cache.c",
            ],
            depends=["csrc/dlpack_exchange.h", "csrc/launcher.h"],
            define_macros=[("Py_LIMITED_API", LIMITED_API)],
            extra_compile_args=["-O3", "-std=gnu11", "-Wall", "-Wextra", "-Wno-unused-parameter", "-fvisibility=hidden"],
            py_limited_api=True,
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)

# SPDX-License-Identifier: GPL-2.0-or-later
"""What pyproject.toml has no keys for: where the application is installed, and the C extension.

In the checkout `broker`, `interposer`, `native` and their like stand at the top. Installed under these names they would
collide with anybody's, so they go into a private folder of the package `kdbus`, which only the command `kdbus` puts on
its path (scripts/kdbus). They import each other by the same names in both places.

The extension is built for the stable ABI (cffi's doing), hence one wheel for all versions of Python from 3.11 on; not
so where Python has none, with free threads or reference counts of all objects.
"""

import sys
import sysconfig
from pathlib import Path

from setuptools import Distribution, find_packages, setup
from setuptools.command.build_py import build_py

PRIVATE = "kdbus._application"

STABLE_ABI = not (hasattr(sys, "gettotalrefcount") or sysconfig.get_config_var("Py_GIL_DISABLED"))


class BuildModules(build_py):
    """Leaves out the module that builds the extension, which is of no use without the C files.

    Builds the preloaded library, too (`native/build.py`), in the checkout if the project is used from there.
    """

    def run(self):
        """Copy the modules, and compile."""
        super().run()
        sys.path.insert(0, str(Path(__file__).parent))
        from native.build import build_preloaded

        source = Path(__file__).parent / "native"
        build_preloaded(source, source if self.editable_mode else Path(self.build_lib, *PRIVATE.split("."), "native"))

    def find_package_modules(self, package, package_dir):
        """(package, module, file) of each module to install."""
        found = super().find_package_modules(package, package_dir)
        return [each for each in found if each[:2] != (f"{PRIVATE}.native", "build")]


class InstallShared(Distribution().get_command_class("install_data")):
    """Puts manual pages and completion below PREFIX/share, made at this moment of the pages of `kdbus help`."""

    def run(self):
        """Make and write them."""
        sys.path.insert(0, str(Path(__file__).parent))
        from share.completion import completion
        from share.manual import manual

        for path, text in {**manual(), **completion()}.items():
            target = Path(self.install_dir, "share", path)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
            self.outfiles.append(str(target))


library = find_packages(include=["kdbus", "kdbus.*", "pytest_kdbus"])
elsewhere = ["tests", "tests.*", "benchmarks", "benchmarks.*", "share"]
application = find_packages(exclude=["kdbus", "kdbus.*", "pytest_kdbus", *elsewhere])

setup(
    packages=[*library, *(f"{PRIVATE}.{name}" for name in application)],
    package_dir={f"{PRIVATE}.{name}": name for name in application if "." not in name},
    package_data={
        "kdbus": ["py.typed"],
        "pytest_kdbus": ["py.typed"],
        f"{PRIVATE}.interposer": ["include/**"],
        f"{PRIVATE}.interposer.watching": ["*.json"],
        f"{PRIVATE}.tracing": ["*.json"],
    },
    include_package_data=False,
    scripts=["scripts/kdbus"],
    cffi_modules=["native/build.py:ffibuilder"],
    # That there are any, for pip to have them installed.
    data_files=[("share", [])],
    cmdclass={"build_py": BuildModules, "install_data": InstallShared},
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if STABLE_ABI else {},
)

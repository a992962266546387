"""Print a CycloneDX 1.6 list of what is installed where this runs: Python packages and Debian's.

`./build.sh` feeds it to the image's Python, so it imports the standard library only. One argument: the product's version.
"""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import metadata
from urllib.parse import quote


def python_packages() -> list[dict]:
    """One component for each distribution; the first on the path hides others of its name, as it does at import."""
    components = {}
    for distribution in metadata.distributions():
        name = (distribution.metadata["Name"] or "").lower().replace("_", "-")
        version = distribution.version or ""
        if not name or name == "sctlab" or name in components:
            continue
        reference = f"pkg:pypi/{quote(name)}@{quote(version)}"
        components[name] = {
            "type": "library",
            "bom-ref": reference,
            "name": name,
            "version": version,
            "purl": reference,
            **licence(distribution),
        }
    return list(components.values())


def licence(distribution: metadata.Distribution) -> dict:
    """Its licence expression, or the short names that it gives itself."""
    expression = distribution.metadata.get("License-Expression")
    if expression:
        return {"licenses": [{"expression": expression}]}
    prefix = "License :: OSI Approved :: "
    names = [c.removeprefix(prefix) for c in distribution.metadata.get_all("Classifier") or [] if c.startswith(prefix)]
    return {"licenses": [{"license": {"name": name}} for name in names]} if names else {}


def debian_packages() -> list[dict]:
    """One component for each package that dpkg knows; none where there is no dpkg."""
    try:
        listing = subprocess.run(
            ["dpkg-query", "--show", "--showformat", "${Package}\\t${Version}\\t${Architecture}\\n"],
            capture_output=True,
            encoding="utf-8",
            check=True,
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return []
    components = []
    for line in listing.splitlines():
        name, version, architecture = line.split("\t")
        reference = f"pkg:deb/debian/{quote(name)}@{quote(version)}?arch={architecture}"
        components.append(
            {"type": "library", "bom-ref": reference, "name": name, "version": version, "purl": reference}
        )
    return components


def main() -> None:
    """Print the list."""
    version = sys.argv[1] if len(sys.argv) > 1 else "unknown"
    product = {"type": "application", "bom-ref": "sctlab", "name": "sctlab", "version": version}
    components = sorted(python_packages() + debian_packages(), key=lambda c: c["bom-ref"])
    bill = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": {**product, "licenses": [{"expression": "Apache-2.0"}]}},
        "components": components,
    }
    json.dump(bill, sys.stdout, indent=1, sort_keys=True)
    print()


if __name__ == "__main__":
    main()

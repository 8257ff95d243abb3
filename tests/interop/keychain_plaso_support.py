"""Runs plaso's parser of file keychains alone and prints what it read as JSON: python keychain_plaso_support.py FILE.

plaso's packages import native libraries for other formats. This parser needs none of them, so they are replaced by
modules that hold nothing.
"""

import importlib.util
import json
import sys
import types


class Hollow(types.ModuleType):
    __path__ = []

    def __getattr__(self, name):
        return type(name, (), {})


for name in ("pysigscan", "dfvfs", "dfvfs.helpers", "dfvfs.helpers.file_system_searcher", "dfvfs.lib",
             "dfvfs.lib.definitions", "dfvfs.resolver", "dfvfs.path", "dfvfs.analyzer", "dfvfs.analyzer.analyzer"):
    sys.modules.setdefault(name, Hollow(name))
root = list(importlib.util.find_spec("plaso").submodule_search_locations)[0]
parsers = types.ModuleType("plaso.parsers")
parsers.__path__ = [root + "/parsers"]  # without its __init__, which imports every parser
sys.modules["plaso.parsers"] = parsers

from plaso.parsers import macos_keychain  # noqa: E402

parser = macos_keychain.KeychainParser()
with open(sys.argv[1], "rb") as file:
    header = parser._ReadFileHeader(file)
    tables = parser._ReadTablesArray(file, header.tables_array_offset)


def plain(value):
    if isinstance(value, (bytes, bytearray)):
        return value.hex()
    return value if isinstance(value, (int, str, type(None))) else str(value)


json.dump({f"{number:08x}": [{key: plain(value) for key, value in record.items()} for record in table.records]
           for number, table in tables.items()}, sys.stdout)

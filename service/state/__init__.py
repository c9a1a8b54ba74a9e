"""The live state: everything that speaks Redis, with its Lua scripts. Imports `process` only."""

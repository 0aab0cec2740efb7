"""The measuring instrument: starts servers, loads them, and says what it saw.

Only `features` knows hansang from inside; for the others it is one server among several.
"""

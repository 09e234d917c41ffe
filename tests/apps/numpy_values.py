"""As values.py, with numpy's arrays and scalars: run it from its directory's path, with numpy 1.24 or newer."""
import sys

import numpy as np

import values


def describe_array(array):
    dtype = array.dtype
    head = {
        "dtype": {"type": type(dtype).__name__, "value": DTYPES.get(dtype.kind) or str(dtype)},
        "shape": values.describe(array.shape),
    }
    # `longdouble` is not decoded.
    if dtype.kind in DTYPES or dtype.itemsize > 8 * (1 + (dtype.kind == "c")) and dtype.kind in "fc":
        head["items"] = {"type": "list", "not_captured_reason": "unsupported"}
    elif dtype.kind == "O":
        head["items"] = values.describe(list(array.flat))
    else:
        head["items"] = values.describe([item.item() for item in array.flat])
    return {"fields": head}


# What is only named.
DTYPES = {"M": "datetime64", "m": "timedelta64", "V": "void"}


def describe_scalar(scalar):
    if isinstance(scalar, (str, bytes)):
        return {key: value for key, value in values.describe(scalar.item()).items() if key != "type"}
    if scalar.dtype.kind in "Mm" or isinstance(scalar, (np.longdouble, np.clongdouble)):
        return {"not_captured_reason": "unsupported"}
    return {key: value for key, value in values.describe(scalar.item()).items() if key != "type"}


# numpy prints its own by the version; ours say what they are.
values.PRINTED = ()
values.OTHER_KINDS += [
    (np.ndarray, describe_array),
    (np.dtype, lambda dtype: {"value": str(dtype)}),
    (np.generic, describe_scalar),
]


def corpus():
    found = {}

    def add(name, *of_kind):
        for value in of_kind:
            found["%s %d" % (name, len(found))] = value

    numbers = ["bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "longlong",
               "ulonglong", "float16", "float32", "float64", "longdouble", "complex64", "complex128", "clongdouble"]
    for name in numbers:
        array = np.array([0, 1, 2, 100], dtype=name)
        add("array of " + name, array, array[::2], array[::-1], array.reshape(2, 2), array[:0], array[1, ...])
        add("scalar " + name, array[1], array[3])
        add("dtype " + name, *([] if "long" in name else [array.dtype]))
        if not name.endswith(("bool", "int8")):
            add("swapped " + name, *([] if "long" in name else [array.astype(array.dtype.newbyteorder(">"))]))
    for name in ("int8", "int16", "int32", "int64"):
        add("extremes of " + name, np.array([np.iinfo(name).min, -1, np.iinfo(name).max], dtype=name))
    for name in ("uint16", "uint32", "uint64"):
        add("extremes of " + name, np.array([np.iinfo(name).max], dtype=name), np.iinfo(name).max)
    for name in ("float16", "float32", "float64"):
        specials = [np.nan, np.inf, -np.inf, -0.0, np.finfo(name).max, np.finfo(name).tiny, 1 / 3]
        add("specials of " + name, np.array(specials, dtype=name), np.dtype(name).type(1 / 3))
    add("complex", np.array([1 + 2j, -1j, complex(0, -2.5)]))
    cube = np.arange(60).reshape(3, 4, 5)
    add("shapes", cube, cube.T, cube[1:, ::2, ::-2], cube[:, 1, :], np.asfortranarray(cube), cube[..., None])
    add("no dimension", np.array(5), np.array(2.5), np.array(None), np.array("text"))
    add("broadcast", np.broadcast_to(np.array([1, 2]), (3, 2)), np.broadcast_to(np.int64(7), (4,)))
    add("large", np.arange(100000), np.zeros((50, 60)), np.ones((1001,), dtype=bool), np.empty((0, 5)))
    add("strings", np.array(["a", "", "h\xe9\u20ac"]), np.array([b"ab", b"c\0"]), np.array(["x", "yy"], dtype=">U3"))
    add("objects", np.array([None, [1], "text", 2.5], dtype=object), np.empty(2, dtype=object))
    add("dates", np.array(["2024-01-02"], dtype="M8[D]"), np.array([5], dtype="m8[s]"), np.datetime64("2024-01-02"))
    add("structure", np.zeros(2, dtype=[("a", "i4"), ("b", "f8")]))
    add("string scalars", np.str_("t\xe9xt"), np.bytes_(b"bytes"))
    add("inside", {"weights": np.array([0.5, 0.25])}, [np.float64(1.5), np.int64(-3), np.bool_(True)])
    own = values.Plain(data=np.eye(2))
    add("attribute", own)
    add("matrix", np.matrix([[1, 2], [3, 4]]))
    return found


values.hold(sys._getframe().f_code, corpus())

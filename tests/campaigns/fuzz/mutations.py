"""Ways to damage a file: at random, or where it hurts (numbers, lengths, JSON, headers)."""

import copy
import io
import json
import struct
import zipfile

NUMBERS = (
    0,
    1,
    2,
    127,
    128,
    255,
    256,
    2**15,
    2**16 - 1,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**62,
    2**63 - 1,
    2**64 - 1,
)

JSON_VALUES = (
    *(None, True, False, 0, -1, 1, 2, 3.5, 1e308, -0.0, 10**30, 2**63, "", "x", "\x00", "\ud800", "<script>"),
    *("../../x", "nan", "a" * 5000, [], {}, [[]], [None], {"a": None}, [0] * 2000, ["x", "x"]),
)

TEXTS = (
    *(
        b"",
        b"NaN",
        b"inf",
        b"-1e999",
        b"1e999",
        b"9" * 400,
        b"0x10",
        b"1_000",
        b"'",
        b'"',
        b'""',
        b'"a',
        b"a\nb",
    ),
    *(
        b"\n",
        b"\r",
        b"\r\n",
        b"\0",
        b",",
        b";",
        b"\t",
        b"|",
        b"\xff",
        b"\xef\xbb\xbf",
        b"\xff\xfe",
        b"\xed\xa0\x80",
    ),
    *(
        b"2024-02-30",
        b"01/02/2003",
        b"25:61:61",
        b"true",
        b"TRUE",
        b"?",
        b"=1+1",
        b"<script>",
        b"../../x",
        b"\\",
    ),
    *(
        "é".encode(),
        "\u202e".encode(),
        b"x" * 70_000,
        b"a,b,c",
        b"-",
        b"+",
        b"1.",
        b".",
        b"1,5",
        b"9223372036854775808",
        b"[" * 3000,
        b"9" * 5000,
        b"{a = 1}",
        b"1979-05-27",
        b"= ",
        b"cuda",
        b"cpu",
    ),
)


def place(random, content):
    """A position: anywhere, or near the start or the end, where headers and footers are."""
    size = len(content)
    nearby = random.choice((size, size, 64, 512))
    at = random.randrange(min(size, nearby) + 1)
    return size - at if random.random() < 0.4 else at


def flip_a_bit(random, content, _):
    at = min(place(random, content), len(content) - 1)
    content[at] ^= 1 << random.randrange(8)


def set_a_byte(random, content, _):
    content[min(place(random, content), len(content) - 1)] = random.choice(
        (0, 1, 127, 128, 255, 10, 44, 34, 39)
    )


def set_a_number(random, content, _):
    width = random.choice((2, 4, 8))
    number = random.choice(NUMBERS) % 2 ** (8 * width)
    at = place(random, content)
    content[at : at + width] = number.to_bytes(width, random.choice(("little", "little", "big")))


def add_to_a_number(random, content, _):
    width = random.choice((1, 2, 4, 8))
    at = min(place(random, content), max(0, len(content) - width))
    order = random.choice(("little", "little", "big"))
    number = int.from_bytes(content[at : at + width], order) + random.choice((-1, 1, 8, -8, 64, 2**20))
    content[at : at + width] = (number % 2 ** (8 * width)).to_bytes(width, order)


def cut(random, content, _):
    del content[place(random, content) :]


def delete(random, content, _):
    at = place(random, content)
    del content[at : at + random.choice((1, 2, 8, 100, 1000))]


def repeat(random, content, _):
    at = place(random, content)
    content[at:at] = content[at : at + random.choice((1, 8, 100))] * random.choice((1, 2, 50))


def insert(random, content, _):
    at = place(random, content)
    content[at:at] = random.randbytes(random.choice((1, 2, 8, 64)))


def wipe(random, content, _):
    at = place(random, content)
    part = content[at : at + random.choice((4, 64, 1000))]
    content[at : at + len(part)] = random.choice((b"\0", b"\xff")) * len(part)


def splice(random, content, others):
    other = random.choice(others)
    at, there = place(random, content), place(random, other)
    content[at:] = other[there:]


def change_text(random, content, _):
    """Replace a run of letters, digits and signs by another text."""
    at = place(random, content)
    stop = at
    while (
        stop < len(content) and stop - at < 40 and (chr(content[stop]).isalnum() or content[stop] in b".-+_")
    ):
        stop += 1
    content[at:stop] = random.choice(TEXTS)


BYTES = (
    *(flip_a_bit, set_a_byte, set_a_number, set_a_number, add_to_a_number, cut, delete, repeat, insert, wipe),
    splice,
)
TEXT = (*BYTES, *[change_text] * 8)


def damaged(random, content, others, ways=BYTES):
    """The content after one to four of the ways."""
    changed = bytearray(content)
    for _ in range(random.choice((1, 1, 2, 4))):
        if not changed:
            break
        random.choice(ways)(random, changed, others)
    return bytes(changed)


def changed_json(random, document):
    """A copy of a JSON value with one to three of its parts replaced, renamed, left out or repeated."""
    document = copy.deepcopy(document)
    for _ in range(random.choice((1, 1, 2, 3))):
        parts = list(_parts(document))
        if not parts:
            return random.choice(JSON_VALUES)
        holder, key = random.choice(parts)
        what = random.randrange(8)
        if what == 0:
            del holder[key]
        elif what == 1:
            holder[key] = copy.deepcopy(random.choice(parts)[0])
        elif what == 2 and isinstance(holder, dict):
            holder[random.choice(("", "x", "name", "n_rows"))] = holder.pop(key)
        elif what == 3 and isinstance(holder, list):
            holder.insert(key, holder[key])
        elif what == 4 and type(holder[key]) in (int, float):
            holder[key] = random.choice((holder[key] + 1, -holder[key], holder[key] * 1000, str(holder[key])))
        else:
            holder[key] = copy.deepcopy(random.choice(JSON_VALUES))
    return document


def _parts(value):
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from _parts(value[key])


def safetensors_parts(content):
    """Header and tensors of a safetensors file."""
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def safetensors_file(header, tensors):
    """The file of them, its length right."""
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + tensors


def npy_file(random, content):
    """An .npy file whose header says something else."""
    length = int.from_bytes(content[8:10], "little")
    header, values = content[10 : 10 + length].decode("latin-1"), content[10 + length :]
    descr = random.choice(
        (
            "'|O'",
            "'<U1000000'",
            "'V9'",
            "[('a','<f4'),('b','|O')]",
            "'>f8'",
            "'<f2'",
            "'<m8[s]'",
            "'<c16'",
            "'?'",
            "'<g'",
            "'<i3'",
            "('<f4',(1000000,))",
            "[('a','<f8',(9,))]",
            "'O4'",
            "__import__('os')",
            "'|S0'",
            "1",
        )
    )
    shape = random.choice(
        (
            "(-1,)",
            "(3,)",
            "()",
            "(0, 3)",
            "(10**30, 2)",
            "(4294967296, 4294967296)",
            "(2147483647, 3)",
            "[3, 3]",
            "(1, 1, 1)",
            "(1,)*99",
            "(3, -1)",
            "(True, 3)",
            "(1.0, 3)",
            "None",
            "(99999999999999999999,)",
            "(" * 3000,
        )
    )
    what = random.randrange(4)
    if what == 0:
        header = "{'descr': " + descr + header[header.index(", 'fortran_order'") :]
    elif what == 1:
        header = header[: header.index("'shape'")] + f"'shape': {shape}, }}\n"
    elif what == 2:
        header = header.replace("False", random.choice(("True", "None", "2", "'x'")))
    else:
        header = damaged(random, header.encode("latin-1"), [b"{}"], TEXT).decode("latin-1")
    text = header.encode("latin-1", "replace")
    version = random.choice((b"\1\0",) * 4 + (b"\2\0", b"\3\0", b"\4\0", b"\0\0"))
    width = 2 if version == b"\1\0" else 4
    stated = random.choice((len(text),) * 6 + (0, 65535, len(text) + 100))
    return b"\x93NUMPY" + version + (stated % 256**width).to_bytes(width, "little") + text + values


def zip_file(random, members):
    """A zip archive of (name, content), whole or with a lying directory."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in members:
            how = random.choice(
                (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
            )
            archive.writestr(zipfile.ZipInfo(name), content, how)
    return stream.getvalue()

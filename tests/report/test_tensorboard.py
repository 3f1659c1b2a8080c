"""`--tensorboard`: event files that TensorBoard itself, and a reader written from the format, understand."""

import struct

import numpy as np
import pytest

from mlp_xp.report.epochs import TensorBoardLog
from mlp_xp.report.event_file import EventFile, crc32c, record


def bitwise_crc32c(content):
    """CRC-32C bit by bit, as RFC 3720 defines it: the remainder of a polynomial division."""
    crc = 0xFFFFFFFF
    for byte in content:
        for bit in range(8):
            top = (crc & 1) ^ (byte >> bit & 1)
            crc >>= 1
            if top:
                crc ^= int(f"{0x1EDC6F41:032b}"[::-1], 2)
    return crc ^ 0xFFFFFFFF


# RFC 3720, appendix B.4.
@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
        (b"", 0),
    ],
)
def test_crc32c(content, expected):
    assert crc32c(content) == bitwise_crc32c(content) == expected


def records_of(content):
    """The contents of an event file's records, their check sums looked at."""

    def masked(part):
        crc = bitwise_crc32c(part)
        return ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32

    found = []
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        assert struct.unpack("<I", content[8:12]) == (masked(content[:8]),)
        found.append(content[12 : 12 + length])
        assert struct.unpack("<I", content[12 + length : 16 + length]) == (masked(found[-1]),)
        content = content[16 + length :]
    return found


def test_records_carry_their_check_sums(tmp_path):
    file = EventFile(tmp_path / "tfevents", 1.5)
    file.add(2.5, 300, {"loss": 0.25})
    version, event = records_of(file.path.read_bytes())
    assert version == b"\x09" + struct.pack("<d", 1.5) + b"\x1a\x0dbrain.Event:2"
    value = b"\x0a\x04loss\x15" + struct.pack("<f", 0.25)
    summary = b"\x0a" + bytes([len(value)]) + value
    time_and_step = b"\x09" + struct.pack("<d", 2.5) + b"\x10\xac\x02"
    assert event == time_and_step + b"\x2a" + bytes([len(summary)]) + summary
    assert len(record(b"")) == 16


def test_a_loss_too_large_for_float32_is_infinite(tmp_path):
    file = EventFile(tmp_path / "tfevents", 0.0)
    file.add(0.0, 1, {"loss": 1e39})
    assert struct.pack("<f", np.inf) in records_of(file.path.read_bytes())[1]


def test_an_existing_file_is_not_written_over(tmp_path):
    EventFile(tmp_path / "tfevents", 0.0)
    with pytest.raises(FileExistsError):
        EventFile(tmp_path / "tfevents", 0.0)


EPOCHS = [
    {"epoch": number, "train_loss": 1 / number, "validation_loss": 2 / number, "learning_rate": 0.1}
    for number in (1, 2, 70_000)
]


@pytest.mark.needs("tensorboard")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_reads_the_curves(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = tmp_path / "new" / "run 1"
    log = TensorBoardLog(folder)
    for epoch in EPOCHS:
        log.add(epoch)
    found = EventAccumulator(str(folder))
    found.Reload()
    assert set(found.Tags()["scalars"]) == {"loss/train", "loss/validation", "learning_rate"}
    for tag, name in (("loss/train", "train_loss"), ("loss/validation", "validation_loss")):
        points = found.Scalars(tag)
        assert [point.step for point in points] == [1, 2, 70_000]
        np.testing.assert_allclose([point.value for point in points], [e[name] for e in EPOCHS], rtol=1e-7)


def test_what_is_not_known_has_no_point(tmp_path):
    log = TensorBoardLog(tmp_path)
    log.add(EPOCHS[0] | {"validation_loss": None})
    (file,) = tmp_path.iterdir()
    assert "tfevents" in file.name
    _, event = records_of(file.read_bytes())
    assert b"loss/train" in event
    assert b"validation" not in event

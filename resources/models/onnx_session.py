"""ONNX Runtime sessions on the CPU, also for files that declare one fixed picture size."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import onnxruntime

#: More threads than this cost CPU time for small networks and bring little.
MAX_THREADS = 4

# Field numbers of the ONNX protobuf (onnx.proto3) that matter here.
_MODEL_GRAPH = 7
_GRAPH_INITIALIZER = 5
_GRAPH_INPUT = 11
_GRAPH_OUTPUT = 12
_TENSOR_NAME = 8
_VALUE_NAME = 1
_VALUE_TYPE = 2
_TYPE_TENSOR = 1
_TENSOR_SHAPE = 2

_VARINT, _FIXED64, _LENGTH_DELIMITED, _FIXED32 = 0, 1, 2, 5


def cpu_session(model: Path, *, threads: int, any_input_size: bool = False) -> onnxruntime.InferenceSession:
    """Open a model for the CPU.

    Args:
        model: The ONNX file.
        threads: Threads per call; 0 takes one per core, at most :data:`MAX_THREADS`.
        any_input_size: Ignore the sizes that the file declares for its inputs and outputs. Meant for fully
            convolutional networks that were exported with a fixed size; see :func:`without_declared_sizes`.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or min(os.cpu_count() or 1, MAX_THREADS)
    options.inter_op_num_threads = 1
    # Idle threads that spin would burn the CPU that decoding needs, for no gain at a few calls a second.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    content = model.read_bytes()
    if any_input_size:
        content = without_declared_sizes(content)
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def without_declared_sizes(model: bytes) -> bytes:
    """The same ONNX model with the shapes of its inputs and outputs left undeclared.

    ONNX Runtime refuses pictures of another size than the declared one even where the network could take
    them. Weights that are listed as inputs as well are taken off that list, which lets the runtime fold
    them. Nodes and weights stay byte for byte as they are.
    """
    return b"".join(
        _encode(_MODEL_GRAPH, _graph_without_sizes(value)) if number == _MODEL_GRAPH else raw
        for number, value, raw in _fields(model)
    )


def _graph_without_sizes(graph: bytes) -> bytes:
    weights = {
        _first(value, _TENSOR_NAME) for number, value, _ in _fields(graph) if number == _GRAPH_INITIALIZER
    }
    parts = []
    for number, value, raw in _fields(graph):
        if number == _GRAPH_INPUT and _first(value, _VALUE_NAME) in weights:
            continue
        if number in (_GRAPH_INPUT, _GRAPH_OUTPUT):
            parts.append(_encode(number, _value_without_shape(value)))
        else:
            parts.append(raw)
    return b"".join(parts)


def _value_without_shape(value_info: bytes) -> bytes:
    parts = []
    for number, value, raw in _fields(value_info):
        if number != _VALUE_TYPE:
            parts.append(raw)
            continue
        type_parts = []
        for type_number, type_value, type_raw in _fields(value):
            if type_number == _TYPE_TENSOR:
                kept = b"".join(r for n, _, r in _fields(type_value) if n != _TENSOR_SHAPE)
                type_parts.append(_encode(_TYPE_TENSOR, kept))
            else:
                type_parts.append(type_raw)
        parts.append(_encode(_VALUE_TYPE, b"".join(type_parts)))
    return b"".join(parts)


def _first(message: bytes, wanted: int) -> bytes:
    for number, value, _ in _fields(message):
        if number == wanted:
            return value
    return b""


def _fields(message: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Field number, payload and complete encoding of every field of a protobuf message."""
    position = 0
    while position < len(message):
        start = position
        key, position = _read_varint(message, position)
        wire_type = key & 7
        value_start = position
        if wire_type == _VARINT:
            _, position = _read_varint(message, position)
        elif wire_type == _LENGTH_DELIMITED:
            length, value_start = _read_varint(message, position)
            position = value_start + length
        elif wire_type in (_FIXED64, _FIXED32):
            position += 8 if wire_type == _FIXED64 else 4
        else:
            raise ValueError(f"not an ONNX file: wire type {wire_type} at byte {start}")
        yield key >> 3, message[value_start:position], message[start:position]


def _read_varint(message: bytes, position: int) -> tuple[int, int]:
    result = shift = 0
    while True:
        byte = message[position]
        position += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result, position
        shift += 7


def _encode(number: int, payload: bytes) -> bytes:
    return _varint(number << 3 | _LENGTH_DELIMITED) + _varint(len(payload)) + payload


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)

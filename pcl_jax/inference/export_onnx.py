"""Readout as an ONNX graph, for programs without Python or JAX."""

import json
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, checker, helper, numpy_helper

from pcl_jax.models.readout import Readout
from pcl_jax.views.view import Kind

OPSET, IR_VERSION = 13, 8
"""Versions of ONNX that runtimes from 2021 on read."""


def readout_graph(readout: Readout, kind: Kind, classes: tuple[str, ...]) -> ModelProto:
    """Return the ONNX model of a readout.

    Input `features`, float32: `[batch, d]` for a view of vectors, `[batch, time, m]` for frames,
    `[batch, time, h, d]` for hidden states. Batch and time are free; all utterances of a batch have the same
    number of frames, since padding would count. Outputs, named as in audonnx: `hidden_states`, the vector
    `[batch, d]`, and `logits`, log-probabilities `[batch, c]`.

    Args:
        readout: Its parameters.
        kind: Shape of the view's features.
        classes: Names of the classes, stored in the file's metadata.
    """
    size = len(readout.mean)
    constants = {
        "mean": readout.mean, "scale": readout.scale, "weight": readout.weight, "bias": readout.bias,
        "zero": np.float32(0),
    }  # fmt: skip
    shape: list[str | int] = ["batch", size]
    nodes = [helper.make_node("Identity", ["features"], ["hidden_states"])]
    if kind != "vector":
        shape = ["batch", "time", size // 2] if kind == "frames" else ["batch", "time", "states", "width"]
        constants |= {"flat": np.array([0, 0, size // 2]), "one": np.array([1])}  # 0 keeps an axis
        nodes = _pooling("features" if kind == "frames" else "middle")
    if kind == "states":
        constants |= {"two": np.array([2]), "three": np.array([3])}
        nodes = _middle_states() + nodes
    nodes += [
        *_standardising(),
        helper.make_node("MatMul", ["standardised", "weight"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["scores"]),
        helper.make_node("LogSoftmax", ["scores"], ["logits"], axis=-1),
    ]
    graph = helper.make_graph(
        nodes,
        "readout",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, shape)],
        [
            helper.make_tensor_value_info("hidden_states", TensorProto.FLOAT, ["batch", size]),
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", len(classes)]),
        ],
        [_constant(name, value) for name, value in constants.items()],
    )
    model = helper.make_model(
        graph, producer_name="pcl_jax", opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
    )
    helper.set_model_props(model, {"classes": json.dumps(classes)})
    checker.check_model(model, full_check=True)
    return model


def _middle_states() -> list[Any]:
    """Return the nodes that choose the middle third of the hidden states, as `pcl_jax.data.vectors.pool`."""
    return [
        helper.make_node("Shape", ["features"], ["shape"]),
        helper.make_node("Gather", ["shape", "two"], ["count"]),
        helper.make_node("Div", ["count", "three"], ["third"]),
        helper.make_node("Sub", ["count", "third"], ["end"]),
        helper.make_node("Slice", ["features", "third", "end", "two"], ["middle"]),
    ]


def _pooling(frames: str) -> list[Any]:
    """Return the nodes of `pcl_jax.data.vectors.pool`: means over frames, then standard deviations."""
    return [
        helper.make_node("Reshape", [frames, "flat"], ["frames"]),
        helper.make_node("ReduceMean", ["frames"], ["centre"], axes=[1], keepdims=1),
        helper.make_node("Sub", ["frames", "centre"], ["deviation"]),
        helper.make_node("Mul", ["deviation", "deviation"], ["squares"]),
        helper.make_node("ReduceMean", ["squares"], ["variance"], axes=[1], keepdims=1),
        helper.make_node("Sqrt", ["variance"], ["spread"]),
        helper.make_node("Concat", ["centre", "spread"], ["pooled"], axis=2),
        helper.make_node("Squeeze", ["pooled", "one"], ["hidden_states"]),
    ]


def _standardising() -> list[Any]:
    """Return the nodes that scale the vector; a value that is not finite becomes the mean, 0."""
    return [
        helper.make_node("Sub", ["hidden_states", "mean"], ["centred"]),
        helper.make_node("Div", ["centred", "scale"], ["scaled"]),
        helper.make_node("IsNaN", ["centred"], ["missing"]),
        helper.make_node("IsInf", ["centred"], ["infinite"]),
        helper.make_node("Or", ["missing", "infinite"], ["unknown"]),
        helper.make_node("Where", ["unknown", "zero", "scaled"], ["standardised"]),
    ]


def _constant(name: str, value: Any) -> TensorProto:
    array = np.asarray(value)
    return numpy_helper.from_array(array if array.dtype == np.int64 else array.astype(np.float32), name)

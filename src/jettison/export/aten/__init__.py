"""ATen operation -> the function that adds it to a graph: the table to read and to extend.

A function takes the `Builder` and the `Call` and returns a `Value` (a tuple of them where PyTorch
returns several tensors). Names are ATen's, without overload and without the underscore of in-place
operations. To add one: a function in the file it belongs to, and one line here.
"""

from __future__ import annotations

from . import elementwise, layers, movement
from .call import Call, Function

__all__ = ["HINTS", "OPS", "Call", "Function"]

OPS: dict[str, Function] = {
    # layers
    "conv2d": layers.conv2d,
    "linear": layers.linear,
    "matmul": layers.matmul,
    "mm": layers.matmul,
    "addmm": layers.addmm,
    "batch_norm": layers.batch_norm,
    "_native_batch_norm_legit_no_training": layers.batch_norm_tuple,
    "layer_norm": layers.layer_norm,
    "group_norm": layers.group_norm,
    "max_pool2d": layers.max_pool2d,
    "avg_pool2d": layers.avg_pool2d,
    "adaptive_avg_pool2d": layers.adaptive_avg_pool2d,
    "adaptive_max_pool2d": layers.adaptive_max_pool2d,
    "mean": layers.mean,
    "softmax": layers.softmax,
    "_softmax": layers.softmax,
    "upsample_nearest2d": layers.upsample_nearest2d,
    "upsample_bilinear2d": layers.upsample_bilinear2d,
    # element-wise
    "add": elementwise.add,
    "sub": elementwise.sub,
    "rsub": elementwise.rsub,
    "neg": elementwise.neg,
    "mul": elementwise.mul,
    "div": elementwise.div,
    "relu": elementwise.act("relu"),
    "relu6": elementwise.act("relu6"),
    "silu": elementwise.act("silu"),
    "hardswish": elementwise.act("hardswish"),
    "hardsigmoid": elementwise.act("hardsigmoid"),
    "sigmoid": elementwise.act("sigmoid"),
    "tanh": elementwise.act("tanh"),
    "gelu": elementwise.gelu,
    "leaky_relu": elementwise.leaky_relu,
    "hardtanh": elementwise.hardtanh,
    "clamp": elementwise.clamp,
    "clamp_min": elementwise.clamp,
    "clamp_max": elementwise.clamp,
    # moving data
    "view": movement.view,
    "_unsafe_view": movement.view,
    "reshape": movement.view,
    "flatten": movement.view,
    "unflatten": movement.view,
    "squeeze": movement.view,
    "unsqueeze": movement.view,
    "permute": movement.permute,
    "transpose": movement.transpose,
    "expand": movement.expand,
    "expand_as": movement.expand,
    "cat": movement.cat,
    "stack": movement.stack,
    "slice": movement.slice_,
    "select": movement.select,
    "narrow": movement.narrow,
    "split": movement.split,
    "split_with_sizes": movement.split,
    "chunk": movement.split,
    "unbind": movement.unbind,
    "pad": movement.pad,
    "constant_pad_nd": movement.pad,
    "channel_shuffle": movement.channel_shuffle,
    "native_channel_shuffle": movement.channel_shuffle,
    "pixel_shuffle": movement.pixel_shuffle,
    "pixel_unshuffle": movement.pixel_unshuffle,
    # nothing to do in evaluation
    "dropout": movement.same,
    "feature_dropout": movement.same,
    "alpha_dropout": movement.same,
    "feature_alpha_dropout": movement.same,
    "contiguous": movement.same,
    "clone": movement.same,
    "alias": movement.same,
    "detach": movement.same,
    "to": movement.same,
    "_to_copy": movement.same,
    "type_as": movement.same,
}

# What to do about some that are missing.
HINTS: dict[str, str] = {
    "conv_transpose2d": "use nn.Upsample and a Conv2d",
    "conv1d": "use Conv2d with a kernel of height 1 on an image of height 1",
    "_upsample_nearest_exact2d": "use mode='nearest'",
    "upsample_bicubic2d": "use mode='bilinear'",
    "_upsample_bilinear2d_aa": "use antialias=False",
    "slice_scatter": "assign to no part of a tensor; build the result with torch.cat",
    "fill": "assign to no part of a tensor; build the result with torch.cat",
    "wrap_with_autocast": "remove torch.autocast from the model's forward",
    "argmax": "export the scores, and take their maximum afterwards",
}

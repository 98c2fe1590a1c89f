"""The part of foretune.h that tune.py needs, with ctypes alone.

FORETUNE_LIB names the library; without it the system's own is loaded.
"""

import ctypes
import os
import sys
from ctypes import POINTER, Structure, byref
from ctypes import c_char_p, c_double, c_float, c_int32, c_size_t, c_uint8, c_uint32, c_uint64, c_void_p

ABI_MAJOR = 1
OK = 0
IMAGE_RGB8 = 0
DEVICE_CPU = -1
PRECISION_F32, PRECISION_F16 = 0, 2

_NAMES = {"darwin": "libforetune.dylib", "win32": "foretune.dll"}
_lib = ctypes.CDLL(os.environ.get("FORETUNE_LIB") or _NAMES.get(sys.platform, "libforetune.so"))

_Progress = ctypes.CFUNCTYPE(c_int32, c_uint64, c_uint64, c_void_p)


class _Allocator(Structure):
    _fields_ = [("allocate", c_void_p), ("release", c_void_p), ("user_data", c_void_p)]


class _SessionOptions(Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("device", c_int32),
        ("precision", c_uint32),
        ("budget", c_uint64),
        ("threads", c_uint32),
        ("micro_batch", c_uint32),
        ("guess", c_uint32),
        ("tangents", c_uint32),
        ("prompts", c_uint32),
        ("insert_at", c_uint32),
        ("deep", c_uint32),
        ("head", c_uint32),
        ("optimizer", c_uint32),
        ("batch", c_uint32),
        ("lr", c_double),
        ("head_lr", c_double),
        ("weight_decay", c_double),
        ("momentum", c_double),
        ("steps", c_uint64),
        ("warmup_steps", c_uint64),
        ("seed", c_uint64),
        ("classes", POINTER(c_char_p)),
        ("class_count", c_size_t),
        ("cuda_context", c_void_p),
        ("cuda_stream", c_void_p),
        ("allocator", _Allocator),
        ("clip", c_double),
        ("power", c_double),
        ("rank", c_uint32),
        ("orthonormal", c_uint32),
        ("unit_rms", c_uint32),
        ("downstream_blocks", c_uint32),
        ("engine", c_char_p),
        ("ort_lib", c_char_p),
    ]


class _PredictorOptions(Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("device", c_int32),
        ("precision", c_uint32),
        ("slots", c_uint32),
        ("threads", c_uint32),
        ("micro_batch", c_uint32),
        ("reserved", c_uint32),
        ("allocator", _Allocator),
        ("engine", c_char_p),
        ("ort_lib", c_char_p),
    ]


class _ExportOptions(Structure):
    _fields_ = [("struct_size", c_size_t), ("precision", c_uint32), ("with_preprocessing", c_uint32)]


class _OnnxRuntimeInfo(Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("oldest", c_char_p),
        ("path", c_char_p),
        ("version", c_char_p),
        ("providers", c_char_p),
    ]


class _Plan(Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("bytes", c_uint64),
        ("smallest_budget", c_uint64),
        ("micro_batch", c_uint32),
        ("tangents_per_pass", c_uint32),
        ("streamed", c_uint32),
        ("reserved", c_uint32),
    ]


class _Metrics(Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("step", c_uint64),
        ("skipped", c_uint64),
        ("loss", c_double),
        ("accuracy", c_double),
        ("lr", c_double),
    ]


class _Image(Structure):
    _fields_ = [
        ("data", c_void_p),
        ("format", c_uint32),
        ("width", c_uint32),
        ("height", c_uint32),
        ("reserved", c_uint32),
        ("row_stride", c_size_t),
    ]


def _declare(name, *arguments, returns=c_int32):
    function = getattr(_lib, "foretune_" + name)
    function.argtypes, function.restype = arguments, returns
    return function


_IMAGES, _LABELS, _LOGITS, _BYTES = POINTER(_Image), POINTER(c_uint32), POINTER(c_float), POINTER(c_uint8)
_abi_version = _declare("abi_version", returns=c_uint32)
_build_info = _declare("build_info", returns=c_char_p)
_last_error = _declare("last_error", returns=c_char_p)
_model_open = _declare("model_open", c_char_p, c_void_p, POINTER(c_void_p))
_model_destroy = _declare("model_destroy", POINTER(c_void_p), returns=None)
_options_default = _declare("session_options_default", POINTER(_SessionOptions), c_size_t)
_options_preset = _declare("session_options_preset", POINTER(_SessionOptions), c_size_t, c_uint32)
_plan_session = _declare("plan_session", c_void_p, POINTER(_SessionOptions), c_size_t, POINTER(_Plan))
_session_create = _declare("session_create", c_void_p, POINTER(_SessionOptions), POINTER(c_void_p))
_session_destroy = _declare("session_destroy", POINTER(c_void_p), returns=None)
_set_progress = _declare("session_set_progress", c_void_p, _Progress, c_void_p)
_add_class = _declare("session_add_class", c_void_p, c_char_p, POINTER(c_uint32))
_class_count = _declare("session_class_count", c_void_p, POINTER(c_size_t))
_add_examples = _declare("session_add_examples", c_void_p, _IMAGES, _LABELS, c_size_t)
_fit_head = _declare("session_fit_head", c_void_p, _IMAGES, _LABELS, c_size_t)
_step = _declare("session_step", c_void_p, _IMAGES, _LABELS, c_size_t, POINTER(_Metrics))
_session_predict = _declare("session_predict", c_void_p, _IMAGES, c_size_t, _LOGITS, c_size_t)
_save_adapter = _declare("session_save_adapter", c_void_p, c_char_p)
_write_adapter = _declare("session_write_adapter", c_void_p, _BYTES, c_size_t, POINTER(c_size_t))
_predictor_create = _declare(
    "predictor_create_memory", c_void_p, _BYTES, c_size_t, POINTER(_PredictorOptions), POINTER(c_void_p)
)
_predictor_destroy = _declare("predictor_destroy", POINTER(c_void_p), returns=None)
_predictor_predict = _declare("predictor_predict", c_void_p, _IMAGES, c_size_t, _LOGITS, c_size_t)
_predictor_class_count = _declare("predictor_class_count", c_void_p, POINTER(c_size_t))

_export = _declare("export", c_void_p, c_char_p, c_char_p, POINTER(_ExportOptions))
_session_export = _declare("session_export", c_void_p, c_char_p, POINTER(_ExportOptions))
_onnx_runtime_get = _declare("onnx_runtime_get", c_char_p, POINTER(_OnnxRuntimeInfo))

if _abi_version() // 1000 != ABI_MAJOR:
    raise ImportError(f"the library has ABI {_abi_version() // 1000}, and {ABI_MAJOR} is needed")


class Error(Exception):
    """A call that failed: its `status`, and the library's text."""

    def __init__(self, status):
        super().__init__(_last_error().decode())
        self.status = status


def _check(status):
    if status != OK:
        raise Error(status)


def build_info():
    return _build_info().decode()


class Image:
    """RGB pixels, three bytes each, rows from top to bottom without gaps."""

    def __init__(self, pixels, width, height):
        if len(pixels) != 3 * width * height:
            raise ValueError(f"{width}x{height} pixels are {3 * width * height} bytes, not {len(pixels)}")
        self._pixels = bytes(pixels)
        self.width = width
        self.height = height


def _images(images):
    """As C takes them; `images` must live as long."""
    array = (_Image * len(images))()
    for to, image in zip(array, images):
        to.data = ctypes.cast(image._pixels, c_void_p)
        to.format, to.width, to.height = IMAGE_RGB8, image.width, image.height
    return array


def _labelled(images, labels):
    if len(images) != len(labels):
        raise ValueError(f"{len(images)} images and {len(labels)} labels")
    return _images(images), (c_uint32 * len(labels))(*labels), len(images)


def _rows(predict, images, classes):
    logits = (c_float * (len(images) * classes))()
    predict(_images(images), len(images), logits, len(logits))
    return [logits[row * classes : (row + 1) * classes] for row in range(len(images))]


def _count(count_of, handle):
    count = c_size_t()
    _check(count_of(handle, byref(count)))
    return count.value


def _set(options, fields):
    for name, value in fields.items():
        if name not in dict(options._fields_):
            raise TypeError(f"there is no option {name}")
        setattr(options, name, _text(value) if isinstance(value, (str, os.PathLike)) else value)
    return options


def _text(value):
    return None if value is None else os.fsencode(value)


def _export_options(fields):
    return byref(_set(_ExportOptions(struct_size=ctypes.sizeof(_ExportOptions)), fields))


def onnx_runtime(ort_lib=None):
    """Loads ONNX Runtime, for good: its `path`, `version`, `providers`, and the `oldest` version that is supported."""
    info = _OnnxRuntimeInfo(struct_size=ctypes.sizeof(_OnnxRuntimeInfo))
    _check(_onnx_runtime_get(_text(ort_lib), byref(info)))
    return {name: getattr(info, name).decode() for name in ("path", "version", "providers", "oldest")}


class _Handle:
    """Closed by `close` or at the end of a `with`."""

    _destroy = None

    def __init__(self):
        self._handle = c_void_p()

    def close(self):
        self._destroy(byref(self._handle))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Model(_Handle):
    _destroy = _model_destroy

    def __init__(self, path):
        super().__init__()
        _check(_model_open(os.fspath(path).encode(), None, byref(self._handle)))


def export_onnx(model, adapter, path, **fields):
    """Writes the model with the adapter at that path (None: with its own classifier) as one ONNX graph; `fields` are
    named as in foretune_export_options."""
    _check(_export(model._handle, _text(adapter), _text(path), _export_options(fields)))


def session_options(preset=None, **fields):
    """The defaults, or those of a PRESET_*, but for `fields`, named as in foretune_session_options."""
    options = _SessionOptions()
    if preset is None:
        _check(_options_default(byref(options), ctypes.sizeof(options)))
    else:
        _check(_options_preset(byref(options), ctypes.sizeof(options), preset))
    return _set(options, fields)


def plan_bytes(model, options, classes):
    """Bytes that a session would take."""
    plan = _Plan(struct_size=ctypes.sizeof(_Plan))
    _check(_plan_session(model._handle, byref(options), classes, byref(plan)))
    return plan.bytes


class Session(_Handle):
    _destroy = _session_destroy

    def __init__(self, model, options):
        super().__init__()
        self._progress = _Progress()
        self._raised = None
        _check(_session_create(model._handle, byref(options), byref(self._handle)))

    def set_progress(self, progress):
        """Has `progress(done, total)` called between micro-batches.

        False stops the call, and what it raises is raised by the call. Signal handlers run ahead of it and must not
        raise, as Python's own for Ctrl-C does: that would be lost.
        """

        def call(done, total, _):
            try:
                return 1 if progress(done, total) else 0
            except BaseException as raised:
                self._raised = raised
                return 0

        callback = _Progress(call)
        _check(_set_progress(self._handle, callback, None))
        self._progress = callback

    def _run(self, function, *arguments):
        self._raised = None
        status = function(self._handle, *arguments)
        if self._raised is not None:
            raise self._raised
        _check(status)

    def add_class(self, name):
        number = c_uint32()
        _check(_add_class(self._handle, name.encode(), byref(number)))
        return number.value

    def add_examples(self, images, labels):
        self._run(_add_examples, *_labelled(images, labels))

    def fit_head(self, images, labels):
        self._run(_fit_head, *_labelled(images, labels))

    def step(self, images, labels):
        """Takes a step; what it came to has `loss`, `accuracy`, `lr`, `step` and `skipped`."""
        metrics = _Metrics(struct_size=ctypes.sizeof(_Metrics))
        self._run(_step, *_labelled(images, labels), byref(metrics))
        return metrics

    def predict(self, images):
        """A row of logits an image."""
        classes = _count(_class_count, self._handle)
        return _rows(lambda *arguments: self._run(_session_predict, *arguments), images, classes)

    def save_adapter(self, path):
        _check(_save_adapter(self._handle, os.fspath(path).encode()))

    def export_onnx(self, path, **fields):
        """What has been learnt as one ONNX graph."""
        _check(_session_export(self._handle, _text(path), _export_options(fields)))

    def adapter_bytes(self):
        size = c_size_t()
        _check(_write_adapter(self._handle, None, 0, byref(size)))
        buffer = (c_uint8 * size.value)()
        _check(_write_adapter(self._handle, buffer, size, byref(size)))
        return bytes(buffer)


class Predictor(_Handle):
    """Classifies with the bytes of an adapter; any number of threads may use it."""

    _destroy = _predictor_destroy

    def __init__(self, model, adapter, **fields):
        super().__init__()
        options = _PredictorOptions(struct_size=ctypes.sizeof(_PredictorOptions), device=DEVICE_CPU)
        _set(options, fields)
        data = (c_uint8 * len(adapter)).from_buffer_copy(adapter)
        _check(_predictor_create(model._handle, data, len(adapter), byref(options), byref(self._handle)))

    def predict(self, images):
        """A row of logits an image."""
        classes = _count(_predictor_class_count, self._handle)
        return _rows(lambda *arguments: _check(_predictor_predict(self._handle, *arguments)), images, classes)

"""Runs sub-models under an older Python, for `old_python_engine`, which starts it: boards whose ONNX Runtime needs one.

Python 3.6 and later; NumPy, ONNX Runtime and nothing else, nothing of Distredge either. Started as
``python3.6 -E engine_host.py 5 6`` with two Unix stream sockets, one for loading and one for running, since both go on
at once; it ends when they close. On either::

    bytes 0..7   size of what follows, big endian; with it, perhaps, a descriptor of shared memory (SCM_RIGHTS)
    bytes 8..    a JSON object: `do` and what that needs; answered by another one, whose `error` is empty if it was done

    start    threads, providers [name, ...], and of the folders that it makes: places [path, ...], prefix; first of all;
             the answer has python, numpy, runtime, providers that are there, and all that are available
    load     model (a number), providers [[name, options], ...], content [start, stop], files {name: [start, stop]},
             fed [array, ...], profile (whether kernels are timed), dynamic (whether inputs may have axes of any
             length), tried [{name: shape}, ...], with which it is run at once; inputs that are not named there have
             the shape that the model says    and memory
    profile  model: ends its timing; the answer has events, what ONNX Runtime noted of each kernel in order
    map      region (a number)    and memory
    bind     run (a number), model, inputs [array, ...], outputs [array, ...]    and memory
    run      run
    forget   models, runs, regions

An array is {name, dtype, shape, start}, and perhaps region: where it lies in that, or else in the memory that came with
the message. Rows stay there; nothing of them crosses a socket.
"""

import array
import json
import mmap
import os
import shutil
import socket
import struct
import sys
import tempfile
import threading
from typing import Any, Callable, Dict, List, Optional, Tuple

_HEAD = struct.Struct(">Q")

CUDA = "CUDAExecutionProvider"

_DTYPES = {"tensor(float)": "float32", "tensor(double)": "float64"}
"""NumPy's names of types for which ONNX has others."""


class _Model:
    """A session, the constants that it is fed with, where they are besides, and what holds their memory."""

    def __init__(
        self, session: Any, fed: Dict[str, Any], on_device: Dict[str, Any], memory: mmap.mmap, dynamic: bool
    ) -> None:
        self.session = session
        self.fed = fed
        self.on_device = on_device
        self.memory = memory
        self.dynamic = dynamic


class Host:
    """The models that are loaded, and the runs that are bound to arrays."""

    def __init__(self) -> None:
        self._models: Dict[int, _Model] = {}
        self._runs: Dict[int, Callable[[], None]] = {}
        self._regions: Dict[int, mmap.mmap] = {}
        self._threads = 1
        self._places: List[str] = []
        self._prefix = ""
        self._folder = ""
        self._noted = ""
        self._runtime: Any = None
        self._numpy: Any = None

    def do(self, message: Dict[str, Any], descriptor: Optional[int]) -> Dict[str, Any]:
        """Does what a message asks for; whatever goes wrong is in the answer."""
        try:
            method = getattr(self, "_" + message["do"])
            if descriptor is None:
                found = method(message)
            else:
                memory = mmap.mmap(descriptor, os.fstat(descriptor).st_size)
                found = method(message, memory)
            return dict(found or {}, error="")
        except Exception as error:  # an engine may raise anything
            return {"error": f"{type(error).__name__}: {error}"[:4000]}
        finally:
            if descriptor is not None:
                os.close(descriptor)

    def close(self) -> None:
        """Removes what a model that is being loaded has been written to, and what kernels' times are noted in."""
        for folder in filter(None, (self._folder, self._noted)):
            shutil.rmtree(folder, ignore_errors=True)

    def _start(self, message: Dict[str, Any]) -> Dict[str, Any]:
        import numpy
        import onnxruntime

        self._numpy, self._runtime = numpy, onnxruntime
        self._threads, self._places, self._prefix = message["threads"], message["places"], message["prefix"]
        available = onnxruntime.get_available_providers()
        wanted = message["providers"]
        if wanted[0] not in available:
            raise ValueError(f"it has no {wanted[0]}; it has: {', '.join(available)}")
        return {
            "python": sys.version.split()[0],
            "numpy": numpy.__version__,
            "runtime": onnxruntime.__version__,
            "available": available,
            "providers": [name for name in wanted if name in available],
        }

    def _load(self, message: Dict[str, Any], memory: mmap.mmap) -> None:
        options = self._runtime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if message.get("profile"):
            self._noted = self._noted or self._write(memory, {})
            options.enable_profiling = True
            options.profile_file_prefix = os.path.join(self._noted, f"kernels-{message['model']}")
        folder = self._write(memory, dict(message["files"], **{"model.onnx": message["content"]}))
        providers = [(name, chosen) for name, chosen in message["providers"]]
        try:
            path = os.path.join(folder, "model.onnx")
            session = self._runtime.InferenceSession(path, options, providers=providers)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        wanted, found = providers[0][0], session.get_providers()
        if wanted not in found:
            raise ValueError(
                f"ONNX Runtime cannot use {wanted} here and would compute with {found[0]}: its libraries, or the "
                "device, are missing or of another version"
            )
        fed = {entry["name"]: self._array(memory, entry) for entry in message["fed"]}
        on_device = {}
        if CUDA in session.get_providers():
            on_device = {name: self._runtime.OrtValue.ortvalue_from_numpy(fed[name], "cuda", 0) for name in fed}
        for shapes in message["tried"]:
            zeros = {
                node.name: self._numpy.zeros(shapes.get(node.name, node.shape), _dtype(node.type))
                for node in session.get_inputs()
                if node.name not in fed
            }
            session.run(None, dict(fed, **zeros))
        self._models[message["model"]] = _Model(session, fed, on_device, memory, message["dynamic"])

    def _profile(self, message: Dict[str, Any]) -> Dict[str, Any]:
        path = self._models[message["model"]].session.end_profiling()
        with open(path) as file:
            noted = json.load(file)
        os.unlink(path)
        return {"events": [event for event in noted if event.get("cat") == "Node"]}

    def _write(self, memory: mmap.mmap, files: Dict[str, List[int]]) -> str:
        """Writes files into a new folder: every version of ONNX Runtime reads a model's constants from beside it."""
        for place in self._places:
            folder = ""
            try:
                folder = self._folder = tempfile.mkdtemp(prefix=self._prefix, dir=place)
                for name, (start, stop) in files.items():
                    with open(os.path.join(folder, os.path.basename(name)), "wb") as file:
                        file.write(memoryview(memory)[start:stop])
                return folder
            except OSError:
                shutil.rmtree(folder, ignore_errors=True)
                if place == self._places[-1]:
                    raise
        raise OSError("no folder for temporary files")

    def _map(self, message: Dict[str, Any], memory: mmap.mmap) -> None:
        self._regions[message["region"]] = memory

    def _bind(self, message: Dict[str, Any], memory: mmap.mmap) -> None:
        model = self._models[message["model"]]
        session, binding = model.session, model.session.io_binding()
        inputs = [(entry["name"], self._array(memory, entry)) for entry in message["inputs"]]
        outputs = [(entry["name"], self._array(memory, entry)) for entry in message["outputs"]]
        _check([node for node in session.get_inputs() if node.name not in model.fed], inputs, "inputs", model.dynamic)
        _check(session.get_outputs(), outputs, "outputs", model.dynamic)
        for name, value in model.on_device.items():
            binding.bind_ortvalue_input(name, value)
        for name, held in [entry for entry in model.fed.items() if entry[0] not in model.on_device] + inputs:
            binding.bind_input(name, "cpu", 0, held.dtype, held.shape, held.ctypes.data)
        for name, held in outputs:
            binding.bind_output(name, "cpu", 0, held.dtype, held.shape, held.ctypes.data)
        # The arrays are kept as long as the run is: the binding has their addresses alone.
        kept = (inputs, outputs, model)

        def run() -> None:
            assert kept
            session.run_with_iobinding(binding)

        self._runs[message["run"]] = run

    def _array(self, memory: mmap.mmap, entry: Dict[str, Any]) -> Any:
        if "region" in entry:
            memory = self._regions[entry["region"]]
        dtype, count = self._numpy.dtype(entry["dtype"]), 1
        for size in entry["shape"]:
            count *= size
        return self._numpy.frombuffer(memory, dtype, count, entry["start"]).reshape(entry["shape"])

    def _run(self, message: Dict[str, Any]) -> None:
        self._runs[message["run"]]()

    def _forget(self, message: Dict[str, Any]) -> None:
        for run in message["runs"]:
            self._runs.pop(run, None)
        for model in message["models"]:
            self._models.pop(model, None)
        for region in message["regions"]:
            self._regions.pop(region, None)


def _dtype(kind: str) -> str:
    """NumPy's name of a type such as ``tensor(int64)``."""
    return _DTYPES.get(kind, kind[len("tensor(") : -1])


def _check(declared: List[Any], arrays: List[Tuple[str, Any]], what: str, dynamic: bool) -> None:
    """The engine would write beyond an array that is too small: shapes must be exactly the model's.

    Of an axis that is dynamic, `old_python_engine` has checked the length of inputs, and the engine does of outputs.
    """
    shapes = {node.name: tuple(node.shape) for node in declared}
    found = {name: held.shape for name, held in arrays}
    if dynamic and shapes.keys() == found.keys():
        for name, shape in shapes.items():
            if len(shape) == len(found[name]):
                shapes[name] = tuple(
                    size if isinstance(size, int) else given for size, given in zip(shape, found[name])
                )
    if shapes != found:
        raise ValueError(f"the sub-model's {what} are {shapes}, the plan's {found}")


def _receive(end: socket.socket) -> Tuple[Dict[str, Any], Optional[int]]:
    """Returns the next message and the descriptor that came with it."""
    descriptors = array.array("i")
    head = b""
    while len(head) < _HEAD.size:
        piece, extra, _, _ = end.recvmsg(_HEAD.size - len(head), socket.CMSG_SPACE(descriptors.itemsize))
        if not piece:
            raise EOFError
        head += piece
        for level, kind, content in extra:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                descriptors.frombytes(content[: descriptors.itemsize])
    left = _HEAD.unpack(head)[0]
    body = bytearray()
    while len(body) < left:
        piece = end.recv(min(left - len(body), 1 << 20))
        if not piece:
            raise EOFError
        body += piece
    return json.loads(body.decode()), (descriptors[0] if descriptors else None)


def serve(host: Host, end: socket.socket) -> None:
    """Does what comes over a socket; ends the process when it closes."""
    try:
        while True:
            answer = json.dumps(host.do(*_receive(end))).encode()
            end.sendall(_HEAD.pack(len(answer)) + answer)
    except (EOFError, OSError):
        # At once, whatever the other thread does: whoever wanted it is gone.
        host.close()
        os._exit(0)


def main() -> None:
    """Serves until a socket closes."""
    # What lies beside this file is another Python's.
    del sys.path[0]
    host = Host()
    loading, running = (socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, int(number)) for number in sys.argv[1:3])
    threading.Thread(target=serve, args=(host, loading), name="loading", daemon=True).start()
    serve(host, running)


if __name__ == "__main__":
    main()

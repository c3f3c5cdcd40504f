"""Why a layer is quantized as it is, or stays float: every sentence of the reports, once. Braces are filled in."""

from qexplore.stacks.layer import Stored

RANGE = {"static": "range from calibration", "dynamic": "range from calibration", "qat": "range learned in training"}
AT_RUN_TIME = "weights rounded once; the input's range is taken at run time"
OWN_RANGE = "computed in float, with a range of its own: torch's kernel would give it its input's"
SEVEN_BITS = "computed in float, and rounded in 7 bits: torch's kernel gives 8, more than those of {engine} may read"
NO_WEIGHTS = "no weights: integers in, integers out; {range}, or its input's"
KNOWN_RANGE = "no weights; the output's range is known"
SOFTMAX = "output range 0 to 1 is known; between its integers torch computes it in float"
ROUNDED_FOR_READER = "computed in float, rounded for the layer that reads it; {range}"
IN_KERNEL_OF = "computed in the kernel of {layers}"
PARTLY_FLOAT = "{reason}; its {operators} stays float"
STORED_SMALL = "stored small, computed in float"
STORED_SMALL_IN_FLOAT = "stored small, computed in float; input and output float"
PACKED = "packed integers, dequantized in every forward; ranges seen in calibration"
PACKED_WITHOUT_DATA = "packed integers, dequantized in every forward; activations float, for no data was given"

ONLY_IN_TRAINING = "does nothing outside training: left out"
FOLDED_INTO = "folded into {layer}"
FUSED_INTO = "fused into {layer}"

NOTHING = "nothing is quantized: every layer stays float, for the reason beside it"

OWN_QCONFIG = "its own qconfig is None, by which torch.ao keeps a layer float"
NOT_SELECTED = "not selected by modules={modules}"
TAKEN_AS_A_WHOLE = "taken as a whole, with the layers inside it"
ONLY_MOVES = "only moves values, which the stack does in float here"
READS_FLOAT = "what it reads is float"
ALSO_READS_FLOAT = "it also reads a float tensor"
NOT_AMONG_LAYERS = "it is not among the layers to quantize"
SEVERAL_TENSORS = "it gives several tensors at once"
PARAMETRIZED = "its parameters are parametrized"
EMBEDDING = "an embedding looks rows up and computes nothing: left float"
NOT_LINEAR = "packed weights are for linear layers only"
FUNCTION = 'the stack quantizes modules, and this is a function with weights: stack="fx" quantizes it'
OWN_CLASS = "its class computes something of its own, and the stack swaps torch's own layers only"
OWN_FORWARD = "its forward was set on it alone, and the stack swaps torch's own layers only"
OWN_PARAMETERS = 'functions read its own parameters, and the stack swaps layers only: stack="fx" quantizes F.linear'
READ_ELSEWHERE = "the network reads its parameters without calling it"
NO_FORM_IN_FX = "FX has no integer form of it"
NO_KERNEL = "torch has no integer kernel for it"
NO_KERNEL_FOR = "torch has no integer kernel for {setting}"
STOPPED = "the stack stops at it: {error}"
NO_KERNEL_HERE = "no integer kernel of {kernel} for it here"
NO_DYNAMIC_KERNEL = "no integer kernel of {kernel} for it in dynamic quantization"
DYNAMIC = "dynamic quantization has integer kernels for Linear and recurrent layers only"
DYNAMIC_IN_PT2E = "dynamic quantization of torchao has integer kernels for Linear layers only"
RECURRENT = "recurrent layers have integer kernels in dynamic quantization only"
RECURRENT_IN_ONNX = "onnxruntime has integer kernels for recurrent layers in dynamic quantization only"
RNN_IN_PT2E = 'torchao has no integer kernel for it: stack="onnxruntime" quantizes it dynamically'
RECURRENT_IN_PT2E = 'torchao has no integer kernel for {kind}: stack="fx" or "eager" quantizes it dynamically'

OFF = "its integers were {error:.3f} of the float norm away, where rounding explains {limit:.3f}"
NOISE = (
    "with it in integers rounding alone left the output {error:.3f} of the float norm away, more than {limit:.3f}; it "
    "is one of the layers that round most"
)
NO_FLOATS = "the network gives no floating numbers, so its layers alone are held against float, not what it gives"
SETTLED = "ranges are taken anew after training, for those that training left were too far from float"

SETTLED_SIZE = (
    "forward decides by a size, which the example settled: the result is the network where {condition}, and refuses "
    "other calls"
)


def in_kernel(kernel: str, weights: Stored, output: str) -> str:
    """Of a layer whose weights and input are integers; ``output`` says where its range is from, or that it is float."""
    is_per_channel = any(one.granularity == "channel" for one in weights.each)
    scales = "a scale a channel, as their ranges differ" if is_per_channel else "one scale for all channels"
    return f"{kernel} kernel; {scales}; output {output}"

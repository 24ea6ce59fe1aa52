"""What a file or folder is, without reading its weights and without torch.

`files.identify` looks at a single file: the header of a safetensors file, or the pickle of one
of torch's, which is read and never run (`pickles`). `folders.identify_folder` looks at the
configurations of a diffusers folder. "Not a model" is an answer, with a reason.

What a header cannot tell, SD 2's kind of prediction where nothing speaks of it, stays open:
`loading` asks the network itself.
"""

from runai.engine.detection.files import identify
from runai.engine.detection.finding import Finding, Format
from runai.engine.detection.folders import identify_folder
from runai.engine.detection.header import read_header
from runai.engine.detection.metadata import prediction_in

__all__ = [
    "Finding",
    "Format",
    "identify",
    "identify_folder",
    "prediction_in",
    "read_header",
]

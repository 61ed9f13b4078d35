"""Every official checkpoint as one row. Nothing about a checkpoint file stands anywhere else."""

from dataclasses import dataclass


@dataclass(frozen=True)
class CheckpointFile:
    """One file of weights that its makers publish.

    Attributes:
        model_type: row of `network.variants.VARIANTS` that it fits.
        name: file name under which it is published and kept.
        url: where its makers publish it.
        size: bytes.
        sha256: hash of the whole file, in hexadecimal. (The suffix in SAM's file names starts an MD5, not this.)
        licence: SPDX identifier of the weights' licence.
        input_size: side of the square model input, in pixels.
    """

    model_type: str
    name: str
    url: str
    size: int
    sha256: str
    licence: str
    input_size: int


CHECKPOINTS: dict[str, CheckpointFile] = {
    file.model_type: file
    for file in (
        CheckpointFile(
            model_type="vit_b",
            name="sam_vit_b_01ec64.pth",
            url="https://dl.fbaipublicfiles.com/segment_anything/sam_vit_b_01ec64.pth",
            size=375_042_383,
            sha256="ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
            licence="Apache-2.0",
            input_size=1024,
        ),
        CheckpointFile(
            model_type="vit_l",
            name="sam_vit_l_0b3195.pth",
            url="https://dl.fbaipublicfiles.com/segment_anything/sam_vit_l_0b3195.pth",
            size=1_249_524_607,
            sha256="3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
            licence="Apache-2.0",
            input_size=1024,
        ),
        CheckpointFile(
            model_type="vit_h",
            name="sam_vit_h_4b8939.pth",
            url="https://dl.fbaipublicfiles.com/segment_anything/sam_vit_h_4b8939.pth",
            size=2_564_550_879,
            sha256="a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
            licence="Apache-2.0",
            input_size=1024,
        ),
        # MobileSAM.
        CheckpointFile(
            model_type="vit_t",
            name="mobile_sam.pt",
            url="https://github.com/ChaoningZhang/MobileSAM/raw/master/weights/mobile_sam.pt",
            size=40_728_226,
            sha256="6dbb90523a35330fedd7f1d3dfc66f995213d81b29a5ca8108dbcdd4e37d6c2f",
            licence="Apache-2.0",
            input_size=1024,
        ),
    )
}

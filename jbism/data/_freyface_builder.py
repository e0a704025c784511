"""Frey face as a tensorflow-datasets builder."""

import io

import numpy as np
import PIL.Image
import tensorflow_datasets as tfds

from jbism.data._freyface import read_frames


class FreyFace(tfds.core.GeneratorBasedBuilder):
    """The Frey face frames for tensorflow-datasets, in the splits of :func:`freyface`.

    Features: ``image``, uint8 (28, 20, 1), stored as PNG, and ``frame``, its place in the film,
    0..1964. Splits: 1,400 train, 300 validation and 265 test frames in file order, which reading
    keeps. Preparing takes ``frey_rawface.mat`` from the manual folder and needs no TensorFlow if
    the file format is ``"array_record"``::

      builder = jbism.data.FreyFace(data_dir=DIR, file_format="array_record")
      config = tfds.download.DownloadConfig(manual_dir=FOLDER_OF_THE_MAT_FILE)
      builder.download_and_prepare(download_config=config)
      train = tfds.data_source("frey_face", split="train", data_dir=DIR, download=False)
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "All 1,965 frames."}  # noqa: RUF012
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Get https://cs.nyu.edu/~roweis/data/frey_rawface.mat and put it in the manual folder."
    )

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            description="1,965 frames of a film of Brendan Frey's face, 28 by 20 grey pixels.",
            homepage="https://cs.nyu.edu/~roweis/data.html",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(28, 20, 1), encoding_format="png"),
                    "frame": tfds.features.Scalar(np.int32),
                }
            ),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        frames = read_frames(dl_manager.manual_dir)
        return {
            "train": self._generate_examples(frames, range(1400)),
            "validation": self._generate_examples(frames, range(1400, 1700)),
            "test": self._generate_examples(frames, range(1700, 1965)),
        }

    def _generate_examples(self, frames, rows):
        for row in rows:
            png = io.BytesIO()
            PIL.Image.fromarray(frames[row]).save(png, "PNG")
            png.seek(0)
            yield row, {"image": png, "frame": row}

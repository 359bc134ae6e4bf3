"""``transcribe`` and ``classify``: NeMo's texts, one text for one sound, files in both directions."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from speechdlm_ext.asr import RecogniserOptions, build_recogniser
from speechdlm_ext.errors import InputError
from speechdlm_ext.hub import CTCModel, SpeechClassifier
from speechdlm_ext.io.audio import read_audio, write_audio
from speechdlm_ext.io.nemo import NemoFile, read_nemo
from speechdlm_ext.modules.conv_speech_files import of_nemo
from speechdlm_ext.neural_types import AudioSignal, NeuralType, NeuralTypeComparisonResult
from speechdlm_ext.vad import build_detector
from tests.helpers.arpa import write_arpa
from tests.helpers.nemo_files import changed


@pytest.fixture(scope="module")
def folder(data: Path) -> Path:
    return data / "reference/nemo"


@pytest.fixture(scope="module")
def model(folder: Path) -> CTCModel:
    return CTCModel.from_pretrained(folder / "ctc_char.nemo")


@pytest.fixture(scope="module")
def sentence(data: Path) -> Path:
    return data / "speech/ljspeech/LJ001-0002.flac"


def test_the_text_is_nemos(model: CTCModel, folder: Path, sentence: Path) -> None:
    wanted = json.loads((folder / "ctc_char.json").read_text())
    (found,) = model.transcribe([str(sentence)], return_hypotheses=True)
    assert found == found.text == wanted["text"]
    assert found.score == pytest.approx(wanted["score"], rel=1e-5)
    log_probs = torch.from_numpy(np.load(folder / "ctc_char.npz")["log_probs"])
    assert found.y_sequence is not None and found.length == len(log_probs)
    torch.testing.assert_close(found.y_sequence, log_probs, atol=1e-4, rtol=1e-4)


def test_the_lines_of_nemos_introduction(model: CTCModel, folder: Path, sentence: Path) -> None:
    """Files by the older keyword; a typed forward pass, whose scores are those of its parts; a spectrogram as sound."""
    files = [str(sentence), str(sentence)]
    said = [f"{name}: {text}" for name, text in zip(files, model.transcribe(paths2audio_files=files), strict=True)]
    assert said == [f"{sentence}: {json.loads((folder / 'ctc_char.json').read_text())['text']}"] * 2
    wave, length = read_audio(sentence)[0], torch.tensor([read_audio(sentence)[0].shape[1]])
    log_probs, encoded_len, predictions = model(input_signal=wave, input_signal_length=length)
    network = model.network
    processed, processed_len = network.preprocessor(wave, length)
    encoded, wanted_len = network.encoder(network.spec_augment(processed, processed_len), processed_len)
    assert torch.equal(log_probs, network.decoder(encoded, wanted_len)) and torch.equal(encoded_len, wanted_len)
    assert torch.equal(predictions, log_probs.argmax(dim=-1))
    samples = NeuralType(("B", "T"), AudioSignal(freq=16000))
    assert model.input_types["input_signal"].compare(samples) is NeuralTypeComparisonResult.SAME
    assert list(model.output_types) == ["outputs", "encoded_lengths", "greedy_predictions"]
    with pytest.raises(TypeError, match=r"CTCModel.forward, argument input_signal: found Tensor of shape \(1, 64, "):
        model(input_signal=processed, input_signal_length=length)
    classifier = SpeechClassifier.from_pretrained(folder / "commands.nemo")
    logits, _, labels = classifier(wave, length)
    assert list(labels.shape) == [1] and labels[0] == logits[0].argmax()


def test_one_sound_has_one_text(model: CTCModel, data: Path, sentence: Path, tmp_path: Path) -> None:
    other = data / "speech/ljspeech/LJ001-0008.flac"
    wave = read_audio(sentence)[0][0]
    (text,) = model.transcribe(sentence)
    manifest = tmp_path / "manifest.json"
    manifest.write_text(json.dumps({"audio_filepath": str(sentence), "duration": 30393 / 16000}) + "\n")
    short = wave[:6400]  # shorter than a second: not padded
    stereo = torch.stack([torch.zeros_like(wave), wave])
    for audio in ([sentence], str(sentence), wave, wave.numpy(), [wave.numpy()], (wave * 32768).to(torch.int16),
                  manifest, str(manifest)):  # fmt: skip
        assert model.transcribe(audio) == [text]
    assert model.transcribe(paths2audio_files=[str(sentence)]) == [text]
    assert model.transcribe(stereo, channel_selector=1) == [text]
    together = model.transcribe([other, sentence, short, wave], batch_size=4)
    assert together[1] == together[3] == text and together[0] == model.transcribe(other)[0]
    assert together[2] == model.transcribe(short)[0] != ""


def test_times(model: CTCModel, sentence: Path) -> None:
    (found,) = model.transcribe(sentence, timestamps=True)
    items = found.timestamp["word"]
    assert [item["word"] for item in items] == [word.text for word in found.words] == found.split()
    assert all(item["start"] < item["end"] <= 1.9 for item in items)
    characters = found.timestamp["char"]
    assert "".join(item["char"] for item in characters).split() == found.split()
    assert all(item["start"] == pytest.approx(item["start_offset"] * 0.02) for item in characters)
    assert model.transcribe(sentence)[0].timestamp == {}


def test_long_recordings_are_cut(model: CTCModel, data: Path, tmp_path: Path) -> None:
    words = read_audio(data / "speech/ljspeech/LJ001-0008.flac")[0][0]
    gap = torch.zeros(16000)
    long = torch.cat([torch.cat([words, gap]) for _ in range(12)])
    (text,) = model.transcribe(long, timestamps=True)
    assert len(long) > 25 * 16000 and text.length > 12 * 50
    ends = [item["end"] for item in text.timestamp["word"]]
    assert ends == sorted(ends) and ends[-1] > 25
    write_audio(tmp_path / "long.wav", long, 16000)
    spec = f"ctc:{data / 'reference/nemo/ctc_char.nemo'}"
    recogniser = build_recogniser(RecogniserOptions(spec, chunk_seconds=25))
    assert recogniser.recognise(long.numpy()).text == text.text


@pytest.mark.parametrize(
    ("audio", "message"),
    [
        ([], "the list of audio is empty"),
        (None, "no audio was given"),
        (["none.wav"], "none.wav: no such file"),
        (np.zeros((2, 100), np.float32), "expected finite samples"),
        (np.full(100, np.nan, np.float32), "expected finite samples"),
        (np.zeros(0, np.float32), "expected finite samples"),
    ],
)
def test_bad_input(model: CTCModel, audio: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        model.transcribe(audio)  # type: ignore[arg-type]


def test_several_channels_need_a_choice(model: CTCModel, data: Path) -> None:
    call = data / "speech/calls/google_two_channel.flac"
    with pytest.raises(InputError, match="has 2 channels"):
        model.transcribe(call)
    left, right = (model.transcribe(call, channel_selector=channel)[0] for channel in (0, 1))
    assert left != right
    with pytest.raises(InputError, match="channel 2"):
        model.transcribe(call, channel_selector=2)


def test_beam_search(model: CTCModel, data: Path, sentence: Path, tmp_path: Path) -> None:
    """A language model of words decides; hypotheses of a wide beam are at least as probable as the greedy one."""
    arpa = write_arpa(tmp_path / "lm.arpa", {"sea": -4.0, "seas": -4.0, "tea": -1.0})
    options = {"lm_model": arpa, "lm_weight": 30, "word_score": 60.0}
    (text,) = model.transcribe(sentence, **options, beam_size=20, timestamps=True)
    assert set(text.split()) == {"tea"} and [word.text for word in text.words] == text.split()
    both = model.transcribe([sentence, data / "speech/ljspeech/LJ001-0008.flac"], **options)
    assert both[0] == model.transcribe(sentence, **options)[0]
    free, greedy = model.transcribe(sentence, beam_size=50)[0], model.transcribe(sentence, return_hypotheses=True)[0]
    assert greedy.y_sequence is not None and free.score >= float(greedy.y_sequence.max(-1).values.sum()) - 1e-3
    with pytest.raises(TypeError, match="argument lm is unknown"):
        model.transcribe(sentence, lm="x.arpa")
    with pytest.raises(InputError, match="beam of -1"):
        model.transcribe(sentence, beam_size=-1)


def test_a_stream_has_the_text_of_the_whole(model: CTCModel, sentence: Path, tmp_path: Path) -> None:
    """Where features are not normalised over time, but for the last frame; chunks of any size, one recording or two."""
    plain = CTCModel.from_pretrained(
        changed(model.model.path, tmp_path / "a.nemo", lambda f: f.config["preprocessor"].update(normalize="None"))
    )
    wave = torch.cat([read_audio(sentence)[0][0]] * 3)
    (whole,) = plain.transcribe(wave)
    stream = plain.streaming(chunk_seconds=0.4, left_seconds=1.5, right_seconds=1.5)
    for size in (7, 3200, 100_000):
        pieces = [stream.step(chunk) for chunk in wave.split(size)] if size > 7 else [stream.step(wave)]
        so_far = stream.text
        rest = stream.finish()
        assert "".join(pieces) == so_far and so_far + rest == whole
    stream = model.streaming()
    assert stream.step(wave[:16000]) == "" and stream.step(wave[16000:40000]) != ""
    with pytest.raises(InputError, match="expected a chunk of at least 1"):
        model.streaming(chunk_seconds=0)
    with pytest.raises(InputError, match=r"sound of shape \(2, 3\)"):
        stream.step(torch.zeros(2, 3))


def test_clips_alone_and_together(folder: Path) -> None:
    model = SpeechClassifier.from_pretrained(folder / "commands.nemo")
    reference = np.load(folder / "commands.npz")
    clips = [audio[:count] for audio, count in zip(reference["audio"], reference["audio_len"], strict=True)]
    found = model.classify(clips)
    for one, logits in zip(found, reference["logits"], strict=True):
        np.testing.assert_allclose(one.logits, logits, atol=1e-4)
        assert one.label == model.labels[int(logits.argmax())] and 0 < one.probability < 1
    assert [model.classify(clip)[0].label for clip in clips] == [one.label for one in found]


def test_frames(folder: Path, sentence: Path) -> None:
    (found,) = SpeechClassifier.from_pretrained(folder / "frame_vad.nemo").classify(sentence)
    logits = np.load(folder / "frame_vad.npz")["logits"]
    np.testing.assert_allclose(found.logits, logits[: len(found.logits)], atol=1e-4)
    assert found.frames == tuple("01"[best] for best in logits[: len(found.logits)].argmax(1))


def test_a_detector(folder: Path, data: Path, sentence: Path) -> None:
    """Of a long recording, piece by piece, the decisions of the whole at once; a random model's, to be sure."""
    wave = torch.cat([read_audio(sentence)[0][0]] * 40)
    detector = build_detector(f"marblenet:model={folder / 'frame_vad.nemo'}")
    (speech,) = detector.detect(wave[None].numpy(), 16000)
    (whole,) = SpeechClassifier.from_pretrained(folder / "frame_vad.nemo").classify(wave)
    frames = np.array([label == "1" for label in whole.frames])
    wanted = np.flatnonzero(np.diff(np.concatenate(([0], frames, [0])))).reshape(-1, 2) * 0.02
    np.testing.assert_allclose(np.array(speech), wanted, atol=1e-3)
    windows = build_detector(f"marblenet:model={folder / 'commands.nemo'}")
    with pytest.raises(InputError, match="5 labels; a detector has two"):
        windows.detect(wave[None].numpy(), 16000)


def test_a_detector_of_windows(data: Path, sentence: Path) -> None:
    file = data / "reference/nemo/vad.nemo"
    wave = read_audio(sentence)[0]
    (speech,) = build_detector(f"marblenet:model={file},shift=0.1").detect(wave.numpy(), 16000)
    model = SpeechClassifier.from_pretrained(file)
    padded = torch.nn.functional.pad(wave[0], (5040, 10080))
    labels = [model.classify(padded[1600 * i : 1600 * i + 10080])[0].label for i in range(len(wave[0]) // 1600)]
    wanted = np.flatnonzero(np.diff(np.array([0, *(label == "speech" for label in labels), 0]))).reshape(-1, 2) * 0.1
    np.testing.assert_allclose(np.array(speech).reshape(-1, 2), np.minimum(wanted, wave.shape[1] / 16000), atol=1e-3)


def test_smoothed_windows(data: Path, sentence: Path) -> None:
    """Of a frame decides the mean of every third of the windows of 0.7 s that it lies in, by hand."""
    file = data / "reference/nemo/vad.nemo"
    wave = read_audio(sentence)[0]
    spec = f"marblenet:model={file},shift=0.1,smoothing=mean,overlap=0.5,onset=0.52,offset=0.52"
    (speech,) = build_detector(spec).detect(wave.numpy(), 16000)
    model, count = SpeechClassifier.from_pretrained(file), wave.shape[1] // 1600
    padded = torch.nn.functional.pad(wave[0], (5040, 10080))
    clips = [padded[1600 * i : 1600 * i + 10080] for i in range(0, count + 3, 3)]
    scores = [float(one.logits.softmax(-1)[1]) for one in model.classify(clips)]
    smooth = [np.mean([p for i, p in enumerate(scores) if 3 * i <= t + 3 < 3 * i + 7]) for t in range(count)]
    wanted = np.flatnonzero(np.diff(np.array([0, *(p > 0.52 for p in smooth), 0]))).reshape(-1, 2) * 0.1
    np.testing.assert_allclose(np.array(speech).reshape(-1, 2), np.minimum(wanted, wave.shape[1] / 16000), atol=1e-3)
    with pytest.raises(InputError, match="smoothing max, overlap 0.875; expected none, mean or median"):
        build_detector("marblenet:smoothing=max")


def test_files_in_both_directions(model: CTCModel, folder: Path, sentence: Path, tmp_path: Path) -> None:
    from speechdlm_ext.asr.speech_model import load_speech_model
    from speechdlm_ext.checkpoints.conv_speech import write_speech_checkpoint

    for name in ("ctc_char", "commands", "frame_vad"):
        first = load_speech_model(folder / f"{name}.nemo")
        write_speech_checkpoint(first, tmp_path / f"{name}.pt")
        kind = CTCModel if name == "ctc_char" else SpeechClassifier
        kind.from_pretrained(tmp_path / f"{name}.pt").save_to(tmp_path / f"{name}.nemo")
        again = load_speech_model(tmp_path / f"{name}.nemo")
        assert again.symbols == first.symbols and again.network.config == first.network.config
        wanted = first.network.state_dict()
        assert all(torch.equal(value, wanted[key]) for key, value in again.network.state_dict().items())
    with pytest.raises(InputError, match="exists: pass --overwrite"):
        model.save_to(tmp_path / "ctc_char.nemo")
    assert CTCModel.from_pretrained(tmp_path / "ctc_char.pt").transcribe(sentence) == model.transcribe(sentence)


def test_a_nemo_file_of_ours_is_as_nemos(data: Path, tmp_path: Path) -> None:
    """Members, keys, shapes and the sections that NeMo reads are those of NeMo's own file."""
    from speechdlm_ext.io.nemo import read_nemo

    for name in ("ctc_char", "ctc_bpe", "commands", "frame_vad"):
        path = data / f"reference/nemo/{name}.nemo"
        kind = CTCModel if "ctc" in name else SpeechClassifier
        kind.from_pretrained(path).save_to(tmp_path / "a.nemo", overwrite=True)
        ours, theirs = read_nemo(tmp_path / "a.nemo"), read_nemo(path)
        for section in ("target", "preprocessor", "encoder", "decoder", "labels"):
            assert ours.config.get(section) == theirs.config.get(section), section
        assert ours.weights.keys() == theirs.weights.keys()
        assert all(torch.equal(value, theirs.weights[key]) for key, value in ours.weights.items())
        if "bpe" in name:
            for key in ("model_path", "vocab_path"):
                assert ours.file(ours.config["tokenizer"][key]) == theirs.file(theirs.config["tokenizer"][key])


def test_a_published_name(model: CTCModel, sentence: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NeMo's names are looked for in the cache, before they are fetched."""
    monkeypatch.setenv("SPEECHDLM_CACHE", str(tmp_path))
    for name in ("QuartzNet15x5Base-En", "stt_en_citrinet_1024_gamma_0_25"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.nemo").write_bytes(model.model.path.read_bytes())
        assert CTCModel.from_pretrained(name).transcribe(sentence) == model.transcribe(sentence)


def test_a_tokenizer_that_does_not_belong_is_refused(data: Path, tmp_path: Path) -> None:
    from speechdlm_ext.asr.text_tokenizer import train_tokenizer

    texts = ["seven two nine", "one two three four", "zero five six eight"]
    other, _ = train_tokenizer(texts, "bpe", 40)
    source = data / "reference/nemo/ctc_bpe.nemo"
    for content, message in (
        (other.model, "the tokenizer has 40 symbols, the model 64 others"),
        (b"x", "not a model of"),
    ):

        def change(file: NemoFile, content: bytes = content) -> None:
            file.files[str(file.config["tokenizer"]["model_path"]).removeprefix("nemo:")] = content

        with pytest.raises(InputError, match=message):
            CTCModel.from_pretrained(changed(source, tmp_path / "a.nemo", change))


def test_other_files_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a model of label, text is expected"):
        CTCModel.from_pretrained(folder / "commands.nemo")
    with pytest.raises(InputError, match="no such file, nor the name of a published one"):
        CTCModel.from_pretrained("QuartzNet20x5")
    with pytest.raises(InputError, match="neither checkpoint_best.pt"):
        CTCModel.from_pretrained(tmp_path)
    torch.save({"model": {}}, tmp_path / "a.pt")
    with pytest.raises(InputError, match="neither a .nemo file nor a checkpoint of the task"):
        CTCModel.from_pretrained(tmp_path / "a.pt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.weights["decoder.decoder_layers.0.bias"].fill_(torch.nan), "not numbers"),
        (lambda f: f.weights.pop("encoder.encoder.1.mconv.0.conv.weight"), "has no weights encoder.encoder.1"),
        (lambda f: f.config["decoder"]["vocabulary"].pop(), "29 outputs, 27 symbols"),
        (lambda f: f.config["decoder"]["vocabulary"].__setitem__(1, "ab"), "one character a symbol"),
        (lambda f: f.config.update(target="nemo.x.EncDecRNNTModel"), "a model EncDecRNNTModel"),
        (lambda f: f.config["encoder"]["jasper"][0].update(filters=40), "is of another model"),
        (lambda f: f.config["preprocessor"].update(_target_="os.system"), "preprocessor system"),
        (lambda f: f.config.pop("encoder"), "no section encoder"),
        (lambda f: f.config["decoder"].update(pooling_type="max"), "pooling_type max is not supported"),
    ],
)
def test_files_that_do_not_fit_are_refused(folder: Path, tmp_path: Path, change: object, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        CTCModel.from_pretrained(changed(folder / "ctc_char.nemo", tmp_path / "a.nemo", change))
    assert "\n" not in str(caught.value)


def test_sections_of_a_model_of_ours_name_the_classes_that_nemo_makes(tmp_path: Path) -> None:
    from speechdlm_ext.asr.speech_model import SpeechModel
    from speechdlm_ext.checkpoints.conv_speech import write_speech_nemo
    from speechdlm_ext.io.nemo import read_nemo
    from speechdlm_ext.modules.conv_speech import LABEL, ConvSpeech, configuration

    network = ConvSpeech(configuration("3x1x64", "matchboxnet"), LABEL, 2).eval()
    write_speech_nemo(SpeechModel(network, ("no", "yes"), None, tmp_path), tmp_path / "a.nemo")
    sections = read_nemo(tmp_path / "a.nemo").config
    classes = {
        name: sections[name]["_target_"].rpartition(".")[2] for name in ("preprocessor", "spec_augment", "encoder")
    }
    assert classes == {
        "preprocessor": "AudioToMFCCPreprocessor", "spec_augment": "SpectrogramAugmentation",
        "encoder": "ConvASREncoder",
    }  # fmt: skip


def test_configurations_of_any_kind_load_or_are_refused(folder: Path, tmp_path: Path) -> None:
    """Every entry in turn replaced by what does not belong there: one line, no traceback, no memory for any size."""
    strange: list[object] = [None, 0, -1, 1 << 40, 1.5, float("nan"), "x", [], [1 << 40], {"a": 1}, True]
    file = read_nemo(folder / "ctc_char.nemo")
    names = ("preprocessor", "encoder", "decoder", "nemo_version", "spec_augment", "target")
    config = {name: file.config[name] for name in names}
    first, block = config["preprocessor"], config["encoder"]["jasper"][1]
    places = [(config, name) for name in config] + [(first, name) for name in first] + [(block, name) for name in block]
    places += [(config["encoder"], name) for name in config["encoder"]]
    places += [(config["decoder"], name) for name in config["decoder"]]
    refused = 0
    for place, name in places:
        before = place[name]
        for value in strange:
            place[name] = value
            try:
                of_nemo(NemoFile(file.path, copy.deepcopy(config), file.weights, {}))
            except InputError as error:
                refused += 1
                assert "\n" not in str(error) and len(str(error)) < 400
            place[name] = before
    assert refused > 3 * len(places)


def test_a_model_of_another_rate_gets_its_rate(data: Path, tmp_path: Path) -> None:
    from speechdlm_ext.asr.speech_model import SpeechModel
    from speechdlm_ext.asr.text_tokenizer import CharacterTokenizer
    from speechdlm_ext.checkpoints.conv_speech import write_speech_nemo
    from speechdlm_ext.demo.speech_recognition import network
    from speechdlm_ext.modules.conv_speech import TEXT, ConvSpeech

    torch.manual_seed(1)
    symbols = ("|", "a", "b", "c")
    small = ConvSpeech(network(8), TEXT, len(symbols)).eval()
    write_speech_nemo(SpeechModel(small, symbols, CharacterTokenizer(symbols), tmp_path), tmp_path / "a.nemo")
    path = data / "speech/ljspeech/LJ001-0002.flac"
    (text,) = CTCModel.from_pretrained(tmp_path / "a.nemo").transcribe([path])  # resampled to 8 kHz as a file
    recogniser = build_recogniser(RecogniserOptions(f"ctc:{tmp_path / 'a.nemo'}", device="cpu"))
    wave = read_audio(path)[0]
    padded = torch.nn.functional.pad(wave, (0, 8000))
    assert text and recogniser.transcribe(padded, [wave.shape[1]])[0].text == text

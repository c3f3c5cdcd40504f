"""Ranges found on data: their error on real values, and pytorch-quantization's entropy calibration."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from pytorch_quantization.calib.histogram import HistogramCalibrator, _compute_amax_entropy
from torch import Tensor

from qexplore._choices import FLOAT_FORMATS, choice_of
from qexplore.errors import CalibrationError
from qexplore.quant import (
    CALIBRATORS,
    COMPARED,
    WEIGHT_CALIBRATORS,
    Histogram,
    QuantDescriptor,
    TensorQuantizer,
    amax_table,
    check_options,
    range_table,
    weight_amax_table,
)
from qexplore.quant.histogram_error import HistogramError

FLOATS = tuple(known.code for known in FLOAT_FORMATS)
SIGNED = (*range(2, 17), *FLOATS)
WIDTHS = (1, 2, 3, 4, 6, 8, 12, 16)
METHODS = tuple(CALIBRATORS)


def gaussian(count: int = 100_000, seed: int = 0) -> Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(seed))


def laplace(count: int = 100_000, seed: int = 0) -> Tensor:
    uniform = torch.rand(count, generator=torch.Generator().manual_seed(seed)) - 0.5
    return -uniform.sign() * torch.log1p(-2 * uniform.abs().clamp(max=0.4999999))


def with_outliers() -> Tensor:
    return torch.cat([gaussian(), gaussian(50) * 30])


OUTLIERS = torch.cat([gaussian(), torch.tensor([1e5, -3e20, 1e30])])
SAMPLES = {
    "gaussian": gaussian(20_000),
    "laplace": laplace(20_000),
    "relu": gaussian(20_000).relu(),
    "outliers": with_outliers(),
    "pixels": torch.randint(0, 256, (50_000,), generator=torch.Generator().manual_seed(0)) / 255,
    "few values": torch.tensor([1.0, -0.5, 0.25, 0.0]),
    "one value": torch.tensor([0.7]),
    "gelu": torch.nn.functional.gelu(gaussian(20_000)),
}
every_sample = pytest.mark.parametrize("x", SAMPLES.values(), ids=SAMPLES)


def histogram(x: Tensor) -> Histogram:
    counted = Histogram()
    counted.collect(x)
    return counted


def error(x: Tensor, code: int, amax: float, *, unsigned: bool = False, narrow_range: bool = False) -> float:
    """Of the quantizer itself."""
    quantizer = TensorQuantizer(QuantDescriptor(amax=amax, unsigned=unsigned, narrow_range=narrow_range))
    quantizer.num_bits = code
    return float((quantizer(x).double() - x.double()).square().mean())


def affine_error(x: Tensor, width: int, ends: tuple[float, float]) -> float:
    quantizer = TensorQuantizer(QuantDescriptor(), asymmetric=True)
    quantizer.set_amax_table({width: ends[1]}, {width: ends[0]})
    quantizer.num_bits = width
    return float((quantizer(x).double() - x.double()).square().mean())


class TestError:
    @pytest.mark.parametrize("code", [2, 4, 8, 12, 403, 304, 201])
    @pytest.mark.parametrize("amax", [0.7, 2.0, 4.5])
    def test_expected_error_is_that_of_the_quantizer(self, code: int, amax: float) -> None:
        x = gaussian()
        of_histogram, choice = HistogramError(histogram(x)), choice_of(code)
        if isinstance(choice, int):
            bound = 2 ** (code - 1) - 1
            expected = of_histogram.of_integers(np.array([amax / bound]), -bound - 1, bound)
        else:
            expected = of_histogram.of_floats(choice, np.array([amax]))
        assert float(expected[0]) == pytest.approx(error(x, code, amax), rel=0.02)

    def test_zeros_cost_nothing(self) -> None:
        x = gaussian(1000)
        half = HistogramError(histogram(torch.cat([x, torch.zeros(1000)]))).of_integers(np.array([0.1]), -8, 7)
        assert float(half[0]) == pytest.approx(
            float(HistogramError(histogram(x)).of_integers(np.array([0.1]), -8, 7)[0]) / 2
        )


class TestAmax:
    # Decibels; the calculation was with a narrow range.
    @pytest.mark.parametrize(
        ("draw", "gains"),
        [(gaussian, {2: 6.9, 3: 6.4, 4: 4.6, 6: 2.4, 8: 0.8}), (laplace, {2: 5.7, 3: 7.3, 4: 6.1, 6: 3.1, 8: 0.9})],
        ids=["gaussian", "laplace"],
    )
    def test_least_error_gains_what_was_calculated(self, draw: Callable[..., Tensor], gains: dict[int, float]) -> None:
        measured = {width: [] for width in gains}
        for seed in range(4):
            x = draw(seed=seed)
            counted = histogram(x)
            table = amax_table(counted, "mse", tuple(gains), unsigned=False, narrow_range=True)
            for width in gains:
                ratio = error(x, width, counted.amax, narrow_range=True) / error(
                    x, width, table[width], narrow_range=True
                )
                measured[width].append(10 * np.log10(ratio))
        for width, gain in gains.items():
            assert float(np.mean(measured[width])) == pytest.approx(gain, abs=0.3), width

    @every_sample
    def test_least_error_is_never_above_that_of_the_maximum(self, x: Tensor) -> None:
        counted, unsigned = histogram(x), bool((x >= 0).all())
        table = amax_table(counted, "mse", SIGNED, unsigned=unsigned)
        for code in SIGNED:
            of_maximum = error(x, code, counted.amax, unsigned=unsigned)
            assert error(x, code, table[code], unsigned=unsigned) <= of_maximum * 1.0001 + 1e-15, code

    @pytest.mark.parametrize("x", [gaussian(20_000), laplace(20_000), gaussian(20_000).relu()], ids=["g", "l", "r"])
    @pytest.mark.parametrize("code", [2, 3, 5, 8, 201, 203])
    def test_no_amax_on_a_fine_grid_is_much_better(self, x: Tensor, code: int) -> None:
        counted = histogram(x)
        found = amax_table(counted, "mse", (code,), unsigned=False)[code]
        least = min(error(x, code, float(amax)) for amax in np.linspace(0.05, 1.0, 96) * counted.amax)
        assert error(x, code, found) <= least * 1.02

    def test_wide_choices_take_more_of_the_range(self) -> None:
        table = amax_table(histogram(gaussian()), "mse", range(2, 13), unsigned=False)
        assert list(table.values()) == sorted(table.values())
        assert table[2] < 0.3 * table[12]

    def test_percentile_leaves_out_the_largest(self) -> None:
        x = gaussian()
        for percentile in (50.0, 99.0, 99.99):
            exact = float(np.percentile(x.abs().numpy(), percentile))
            table = amax_table(histogram(x), "percentile", SIGNED, unsigned=False, percentile=percentile)
            assert table[4] == pytest.approx(exact, abs=histogram(x).bin_width)
            assert table[403] == table[4]
            assert table[1403] == histogram(x).amax
        assert amax_table(histogram(x), "percentile", (4,), unsigned=False, percentile=100.0) == {4: histogram(x).amax}

    def test_zeros_count_for_percentiles(self) -> None:
        x = torch.cat([torch.zeros(900), torch.linspace(0.01, 1, 100)])
        assert amax_table(histogram(x), "percentile", (4,), unsigned=True, percentile=95.0)[4] == pytest.approx(
            0.505, abs=0.01
        )
        assert amax_table(histogram(x), "percentile", (4,), unsigned=True, percentile=50.0)[4] < 0.02

    @every_sample
    @pytest.mark.parametrize("method", METHODS)
    def test_ranges_are_finite_positive_and_within_what_was_seen(self, x: Tensor, method: str) -> None:
        counted, unsigned = histogram(x), bool((x >= 0).all())
        table = amax_table(counted, method, SIGNED, unsigned=unsigned)
        assert list(table) == list(SIGNED)
        assert all(0 < amax <= counted.amax for amax in table.values())
        assert all(type(amax) is float for amax in table.values())

    @pytest.mark.parametrize("method", METHODS)
    def test_what_is_dead_stays_dead(self, method: str) -> None:
        counted = histogram(torch.zeros(3))
        assert set(amax_table(counted, method, SIGNED, unsigned=True).values()) == {0.0}
        assert set(range_table(counted, method, range(1, 17)).values()) == {(0.0, 0.0)}

    def test_scale_of_the_data_does_not_matter(self) -> None:
        for method in METHODS:
            small = amax_table(histogram(laplace() * 2.0**-90), method, SIGNED, unsigned=False)
            large = amax_table(histogram(laplace() * 2.0**90), method, SIGNED, unsigned=False)
            assert all(large[code] == pytest.approx(small[code] * 2.0**180, rel=1e-6) for code in SIGNED)

    @pytest.mark.parametrize("method", WEIGHT_CALIBRATORS)
    def test_scale_of_a_row_does_not_matter(self, method: str) -> None:
        row = laplace(300)[None]
        rows = torch.cat([row, row * 2.0**-100, row * 2.0**100])
        for code, amax in weight_amax_table(rows, method, SIGNED).items():
            assert amax.double().tolist() == [float(amax[0]) * scale for scale in (1.0, 2.0**-100, 2.0**100)], code

    @pytest.mark.parametrize(
        ("method", "options"),
        [("mse", {"percentile": 99.0}), ("max", {"stride": 1}), ("entropy", {"bins": 2}), ("percentile", {"p": 1.0})],
    )
    def test_unknown_options_are_refused(self, method: str, options: dict[str, float]) -> None:
        for table in (
            lambda: amax_table(histogram(gaussian(10)), method, (4,), unsigned=False, **options),
            lambda: range_table(histogram(gaussian(10)), method, (4,), **options),
        ):
            with pytest.raises(TypeError, match=f"method '{method}' has no option"):
                table()

    def test_an_option_of_the_wrapping_is_told_its_place(self) -> None:
        with pytest.raises(TypeError, match=r"no option 'asymmetric': .*QuantizedModel\(\.\.\., asymmetric="):
            check_options("max", {"asymmetric": "auto"})

    def test_unknown_methods_and_impossible_percentiles_are_refused(self) -> None:
        with pytest.raises(TypeError, match="unknown calibration method 'guess'"):
            amax_table(histogram(gaussian(10)), "guess", (4,), unsigned=False)
        for percentile in (0.0, 101.0, -1.0):
            with pytest.raises(CalibrationError, match="must be in"):
                amax_table(histogram(gaussian(10)), "percentile", (4,), unsigned=False, percentile=percentile)

    @pytest.mark.parametrize(("share", "meant"), [(0.9999, "99.99"), (0.999999, "99.9999"), (0.5, "50"), (1.0, "100")])
    def test_a_share_is_no_percentile(self, share: float, meant: str) -> None:
        said = f"counts from 0 to 100, got {share:g}: did you mean {meant}\\?$"
        with pytest.raises(CalibrationError, match=said):
            amax_table(histogram(gaussian(10)), "percentile", (4,), unsigned=False, percentile=share)
        with pytest.raises(CalibrationError, match=said):
            range_table(histogram(gaussian(10)), "percentile", (4,), percentile=share)


class TestEntropy:
    @pytest.mark.parametrize("draw", [gaussian, laplace])
    @pytest.mark.parametrize("num_bits", [4, 8])
    def test_it_is_pytorch_quantizations_on_the_same_bins(self, draw: Callable[..., Tensor], num_bits: int) -> None:
        x = draw().abs()
        x = x / x.max() * 0.9999999  # the bins then end where the values do, as upstream's
        counted = Histogram(1024)
        counted.collect(x)
        half = counted.num_bins // 2
        counts, edges = counted.counts[half:].copy(), counted.edges[half:]
        truth = float(_compute_amax_entropy(counts, edges, num_bits, False, 1, max(half // 16, 2 ** (num_bits - 1))))
        assert amax_table(counted, "entropy", (num_bits,), unsigned=False)[num_bits] == truth

    @pytest.mark.parametrize("draw", [laplace, gaussian])
    def test_it_is_near_pytorch_quantizations_calibrator(self, draw: Callable[..., Tensor]) -> None:
        x = draw()
        x = x / x.abs().max() * 0.9999999
        calibrator, counted = HistogramCalibrator(8, None, False, num_bins=512), Histogram(1024)
        calibrator.collect(x)
        counted.collect(x)
        truth = float(calibrator.compute_amax("entropy"))
        assert amax_table(counted, "entropy", (8,), unsigned=False)[8] == pytest.approx(truth, abs=counted.bin_width)

    @pytest.mark.parametrize("width", [2, 4, 8, 12])
    def test_outliers_do_not_matter(self, width: int) -> None:
        # pytorch-quantization's takes a sixth of the range of the outliers here, six times that of the others.
        alone, beside = (amax_table(histogram(x), "entropy", (width,), unsigned=False) for x in (gaussian(), OUTLIERS))
        ends = (range_table(histogram(x), "entropy", (width,))[width] for x in (gaussian(), OUTLIERS))
        # They lie in the outermost bin together, and a level's share of them is not left out.
        assert beside[width] == pytest.approx(alone[width], rel=0.2)
        assert next(ends) == pytest.approx(next(ends), rel=0.25)

    def test_few_levels_take_less_of_the_range(self) -> None:
        table = amax_table(histogram(laplace()), "entropy", (2, 4, 6, 8, 16, 201), unsigned=False)
        assert table[2] < table[4] < table[6] < table[8] < table[16]
        assert table[201] < table[6]

    @pytest.mark.parametrize("num_values", [2, 3, 5, 17])
    @pytest.mark.parametrize("unsigned", [False, True])
    def test_of_few_distinct_values_little_is_left_out(self, num_values: int, unsigned: bool) -> None:
        drawn = torch.randint(0, num_values, (4096,), generator=torch.Generator().manual_seed(0))
        x = drawn / (num_values - 1) * (torch.arange(4096) % 8 > 1)  # a quarter is background
        widths = range(2, 9)
        table = amax_table(histogram(x), "entropy", widths, unsigned=unsigned)
        ranges = range_table(histogram(x), "entropy", widths)
        for width in widths:
            of_maximum = error(x, width, 1.0, unsigned=unsigned)
            assert error(x, width, table[width], unsigned=unsigned) <= 2 * of_maximum + 1e-12, width
            assert affine_error(x, width, ranges[width]) <= 2 * affine_error(x, width, (0.0, 1.0)) + 1e-12, width


class TestRange:
    @every_sample
    @pytest.mark.parametrize("method", METHODS)
    def test_zero_is_within_and_nothing_beyond_what_was_seen(self, x: Tensor, method: str) -> None:
        low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
        table = range_table(histogram(x), method, WIDTHS)
        assert tuple(table) == WIDTHS
        for ends in table.values():
            assert low <= ends[0] <= 0 <= ends[1] <= high
            assert ends[0] < ends[1]

    @every_sample
    def test_least_error_is_not_above_that_of_the_maximum(self, x: Tensor) -> None:
        # Of four values a histogram knows the place to a bin only, hence the tolerance.
        widest = (min(float(x.min()), 0.0), max(float(x.max()), 0.0))
        for width, ends in range_table(histogram(x), "mse", WIDTHS).items():
            assert affine_error(x, width, ends) <= affine_error(x, width, widest) * 1.01 + 1e-15, width

    @pytest.mark.parametrize("width", [2, 4, 6])
    def test_a_zero_point_beats_a_sign_on_one_sided_tensors(self, width: int) -> None:
        x = SAMPLES["gelu"]
        signed = error(x, width, amax_table(histogram(x), "mse", (width,), unsigned=False)[width])
        assert affine_error(x, width, range_table(histogram(x), "mse", (width,))[width]) < 0.5 * signed

    @pytest.mark.parametrize("width", [2, 3, 5])
    def test_no_pair_on_a_grid_is_much_better(self, width: int) -> None:
        x = gaussian(5000).exp() - 0.5
        low, high = float(x.min()), float(x.max())
        found = affine_error(x, width, range_table(histogram(x), "mse", (width,))[width])
        pairs = [(low * a, high * b) for a in np.linspace(0, 1, 9) for b in np.linspace(0.05, 1, 39)]
        assert found <= 1.05 * min(affine_error(x, width, pair) for pair in pairs)

    def test_percentile_leaves_half_out_at_either_end(self) -> None:
        x = gaussian()
        low, high = range_table(histogram(x), "percentile", (4,), percentile=98.0)[4]
        exact = np.percentile(x.numpy(), [1, 99])
        assert (low, high) == pytest.approx(tuple(exact), abs=histogram(x).bin_width)
        assert range_table(histogram(gaussian().relu()), "percentile", (4,), percentile=98.0)[4][0] == 0.0

    def test_of_negative_values_alone_the_upper_end_is_zero(self) -> None:
        for method in METHODS:
            low, high = range_table(histogram(-gaussian().abs() - 1), method, (4,))[4]
            assert low < 0 == high


class TestWeights:
    ROWS = torch.randn(12, 144, generator=torch.Generator().manual_seed(0)) * torch.linspace(0.01, 2, 12)[:, None]

    def errors(self, rows: Tensor, code: int, amax: Tensor) -> npt.NDArray[np.float64]:
        quantizer = TensorQuantizer(QuantDescriptor(amax=amax[:, None].numpy()))
        quantizer.num_bits = code
        squares: npt.NDArray[np.float64] = (quantizer(rows).double() - rows.double()).square().sum(dim=1).numpy()
        return squares

    @pytest.mark.parametrize("code", SIGNED)
    def test_least_error_of_every_row_is_never_above_that_of_its_maximum(self, code: int) -> None:
        found = weight_amax_table(self.ROWS, "mse", SIGNED)[code]
        largest = self.ROWS.abs().amax(dim=1)
        assert found.shape == (12,)
        assert bool((found <= largest).all())
        assert bool((self.errors(self.ROWS, code, found) <= self.errors(self.ROWS, code, largest) * 1.000001).all())

    @pytest.mark.parametrize("code", [2, 3, 4, 6, 201, 203])
    def test_no_amax_on_a_fine_grid_is_much_better(self, code: int) -> None:
        largest = self.ROWS.abs().amax(dim=1)
        grid = [self.errors(self.ROWS, code, largest * float(share)) for share in np.linspace(0.1, 1, 91)]
        found = self.errors(self.ROWS, code, weight_amax_table(self.ROWS, "mse", (code,))[code])
        assert float(np.mean(found / np.min(grid, axis=0))) < 1.05

    def test_rows_do_not_depend_on_each_other(self) -> None:
        together = weight_amax_table(self.ROWS, "mse", (3, 201))
        for place, row in enumerate(self.ROWS):
            alone = weight_amax_table(row[None], "mse", (3, 201))
            assert all(float(alone[code]) == float(together[code][place]) for code in (3, 201))

    def test_percentile_is_the_value_at_its_rank(self) -> None:
        row = torch.arange(1, 20_001, dtype=torch.float32)[None]
        assert weight_amax_table(row, "percentile", (4,))[4].tolist() == [19998.0]
        assert torch.equal(weight_amax_table(self.ROWS, "percentile", (4,))[4], self.ROWS.abs().amax(dim=1))

    def test_rows_of_zeros_and_padding(self) -> None:
        rows = torch.zeros(2, 32)
        rows[1, :5] = torch.tensor([0.1, -0.2, 0.3, 0.05, 0.0])
        for method in WEIGHT_CALIBRATORS:
            table = weight_amax_table(rows, method, SIGNED)
            assert all(float(amax[0]) == 0.0 < float(amax[1]) for amax in table.values())

    def test_unknown_methods_are_refused(self) -> None:
        with pytest.raises(TypeError, match="unknown calibration method of weights 'entropy'"):
            weight_amax_table(self.ROWS, "entropy", (4,))


def test_every_method_has_a_line_in_the_guide_and_what_auto_compares_is_there() -> None:
    guide = Path(__file__).resolve().parents[2].joinpath("docs", "quantizer.md").read_text(encoding="utf-8")
    assert [name for name in CALIBRATORS if f'\n| `"{name}"` |' not in guide] == []
    assert set(COMPARED["activation"]) <= set(CALIBRATORS) and set(COMPARED["weight"]) <= set(WEIGHT_CALIBRATORS)

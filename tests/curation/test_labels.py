"""Label names of PadChest and BIMCV: every one read or told, none lost."""

import pytest

from medfinder.curation.keywords import KEYWORDS, map_labels, read_label, resolve_keyword, resolve_label
from medfinder.curation.keywords.labels import _labels, _tables
from medfinder.records import Finding

LABELS = _tables()["label"]


def test_the_label_tree_is_there_as_published():
    # PadChest tells of 174 findings and 19 differential diagnoses (doi:10.1016/j.media.2020.101797);
    # BIMCV's COVID tree, which the table holds, has a few names of each more and less.
    assert 180 <= len(LABELS) <= 200


def test_every_label_names_a_keyword_or_is_told_as_unmapped():
    for name, entry in LABELS.items():
        found, unmapped = map_labels([name])
        if "keyword" in entry:
            assert entry["keyword"] in KEYWORDS
            assert [finding.name for finding in found] == [entry["keyword"]]
            assert unmapped == ()
        else:
            assert (found, unmapped) == ((), (name,))


@pytest.mark.parametrize(
    ("label", "keyword"),
    [
        ("alveolar pattern", "consolidation"),
        ("air trapping", "air trapping"),
        ("aortic elongation", "aortic elongation"),
        ("apical pleural thickening", "pleural thickening"),
        ("costophrenic angle blunting", "costophrenic angle blunting"),
        ("laminar atelectasis", "atelectasis"),
        ("loculated pleural effusion", "pleural effusion"),
        ("NSG tube", "nasogastric tube"),
        ("suture material", "surgical clips"),
        ("viral pneumonia", "viral pneumonia"),
        ("COVID 19", "COVID-19"),
        ("calcified densities", None),
        (" Ground_Glass pattern ", "ground-glass opacity"),
        ("'goiter'", "goitre"),
        ("C0034079", "nodule"),
        ("c0032227", "pleural effusion"),
        ("C9999999", None),
        ("normal", None),
        ("exclude", None),
        ("", None),
        ("derrame pleural", "pleural effusion"),
    ],
)
def test_a_label_is_read_by_name_or_concept(label: str, keyword: str | None):
    assert resolve_label(label) == keyword


def test_a_label_that_is_itself_a_doubt_stays_one():
    assert read_label("COVID 19 uncertain") == Finding("COVID-19", "uncertain")
    found, _ = map_labels(["COVID 19 uncertain", "COVID 19"])
    assert found == (Finding("COVID-19", "present"),)


def test_remarks_and_empty_entries_are_passed_over_and_unknown_names_told_once():
    found, unmapped = map_labels(
        [" pleural effusion", "", "  ", "normal", "exclude", "unchanged", "obesity", "obesity"]
    )
    assert found == (Finding("pleural effusion"),)
    assert unmapped == ("obesity",)


def test_a_label_that_a_source_gave_a_side_keeps_it():
    left, right = Finding("pleural effusion", laterality="left"), Finding("pleural effusion", laterality="right")
    found, unmapped = map_labels([left, right, Finding("chronic changes")])
    assert found == (left, right)
    assert unmapped == ("chronic changes",)


def test_what_the_tree_leaves_unmapped_no_name_of_a_keyword_bends_to_fit():
    # A soft tissue mass of the chest wall is a "mass" to the words of a report, but not the lung's to the tree.
    bent = {name for name, entry in LABELS.items() if "keyword" not in entry and resolve_keyword(name)}
    assert bent <= {"soft tissue mass"}


def test_a_concept_means_one_keyword():
    for keyword in KEYWORDS.values():
        if keyword.cui:
            assert _labels()[keyword.cui.lower()].get("keyword") == keyword.name

"""What a query says of the patient."""

import pytest

from medfinder.retrieval.filters import parse_filter
from medfinder.retrieval.patient import read_patient


@pytest.mark.parametrize(
    ("text", "rest", "where"),
    [
        ("70-year-old woman with a pulmonary nodule", "pulmonary nodule", "sex = F and age = 70"),
        ("pneumothorax in a 65 yo male", "pneumothorax", "sex = M and age = 65"),
        ("mujer de 70 años con nodulo pulmonar", "nodulo pulmonar", "sex = F and age = 70"),
        ("nodule in women under 40", "nodule", "sex = F and age < 40"),
        ("effusion in patients over 80", "effusion", "age >= 80"),
        ("nodule of 8 mm in a patient aged 55 years", "nodule of 8 mm", "age = 55"),
        ("hombre con TEP", "TEP", "sex = M"),
        ("5 year old with consolidation", "consolidation", "age = 5"),
    ],
)
def test_the_patient_is_parted_from_the_findings(text: str, rest: str, where: str) -> None:
    assert read_patient(text) == (rest, where)
    parse_filter(where)


@pytest.mark.parametrize(
    "text",
    [
        "mass over 60 mm",
        "nodule stable for 3 years",
        "unchanged over 3 years",
        "right middle lobe mass",
        "males and females with effusion",
        "asymmetry of the female breasts",
        "paciente con derrame pleural",
        "woman",
        "man over 60",
        "mesothelioma, mandible, menopause",
    ],
)
def test_what_is_no_patient_or_nothing_else_stays_as_it_was_written(text: str) -> None:
    assert read_patient(text) == (text, "")

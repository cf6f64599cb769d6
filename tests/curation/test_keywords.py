"""The keyword library, on sentences written by hand as radiologists write them, and on phantom reports."""

import importlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from medfinder.curation import keywords
from medfinder.curation.keywords import (
    KEYWORDS,
    expand_abbreviations,
    extract_findings,
    is_negated,
    resolve_keyword,
    split_sentences,
)
from medfinder.curation.keywords.words import stem
from medfinder.records import Finding, Language
from medfinder.sources.phantoms.report import write_report
from medfinder.sources.phantoms.vocabulary import FINDINGS, LOBES

# sentence; what is present ("name", "name/side", "name/side/place"), what is uncertain ("?"), what is absent ("-").
ENGLISH = [
    ("Left effusion with compressive atelectasis of the underlying lung.", "pleural effusion/left atelectasis/left"),
    ("No pleural effusion, pneumothorax, or adenopathy.", "-pleural effusion -pneumothorax -adenopathy"),
    ("Effusion without cardiomegaly.", "pleural effusion -cardiomegaly"),
    ("No pleural effusion but left pneumothorax.", "-pleural effusion pneumothorax/left"),
    ("The previously seen right effusion has resolved.", "-pleural effusion/right"),
    ("Resolved effusion.", "-pleural effusion"),
    ("History of left mastectomy.", "mastectomy/left"),
    ("History of pneumonia.", ""),
    ("Chest CT without contrast shows bilateral ground glass opacities.", "ground-glass opacity/bilateral"),
    ("No significant change in the known RUL nodule.", "nodule/right/upper_lobe"),
    ("Without significant change in the small pericardial effusion.", "pericardial effusion"),
    ("Pulmonary embolism cannot be excluded.", "?pulmonary embolism"),
    ("Findings suspicious for PE.", "?pulmonary embolism"),
    ("PE is ruled out.", "-pulmonary embolism"),
    ("No evidence of PE.", "-pulmonary embolism"),
    ("The heart is mildly enlarged.", "cardiomegaly"),
    ("The heart is not enlarged.", "-cardiomegaly"),
    ("Heart size is within normal limits.", ""),
    ("Pleural and pericardial effusions are seen.", "pleural effusion pericardial effusion"),
    ("Neither pleural nor pericardial effusion.", "-pleural effusion -pericardial effusion"),
    ("A 12 mm spiculated nodule in the left upper lobe, suspicious for malignancy.", "nodule/left/upper_lobe"),
    ("GGO and consolidation in the LLL.", "ground-glass opacity/left/lower_lobe consolidation/left/lower_lobe"),
    ("Ground-glass opacities in the right upper and left lower lobes.", "ground-glass opacity/bilateral"),
    ("Enlarged right paratracheal lymph node measuring 18 mm.", "adenopathy/right/mediastinal"),
    ("No enlarged mediastinal or hilar lymph nodes.", "-adenopathy"),
    ("Lymph nodes are not enlarged.", "-adenopathy"),
    ("Calcified granuloma in the right middle lobe.", "calcified granuloma/right/middle_lobe"),
    ("A calcified 5 mm nodule in the lingula.", "calcified granuloma/left/lingula"),
    ("The aorta is dilated, measuring 48 mm at its ascending portion.", "aortic aneurysm"),
    ("Aneurysmal dilatation of the ascending aorta (52 mm).", "aortic aneurysm/None/ascending_aorta"),
    ("Aortic and coronary calcifications.", "aortic calcification coronary calcification"),
    ("Loss of height of the T8 vertebral body.", "vertebral collapse/None/T8"),
    ("Old fractures of the left sixth and seventh ribs.", "rib fracture/left"),
    ("No displaced rib fractures.", "-rib fracture"),
    ("Subcutaneous emphysema along the right chest wall.", "subcutaneous emphysema/right"),
    ("Centrilobular emphysema, predominantly in the upper lobes.", "emphysema/None/upper_lobe"),
    ("Tree-in-bud nodularity in the right lower lobe.", "tree-in-bud/right/lower_lobe"),
    ("Right apical pleural thickening, unchanged.", "pleural thickening/right/apical"),
    ("Sliding hiatus hernia.", "hiatal hernia"),
    ("Absence of the right breast.", "mastectomy/right"),
    ("Pacemaker with leads in the right atrium and ventricle.", "pacemaker"),
    ("Right jugular central venous catheter with its tip in the SVC.", "central venous catheter/right"),
    ("The chest tube has been removed.", "-chest tube"),
    ("Thyroid goiter extending into the chest.", "goitre"),
    ("Dextroconvex thoracic scoliosis.", "scoliosis"),
    ("The main pulmonary artery is dilated, 36 mm.", "pulmonary artery enlargement"),
    ("Several liver cysts, the largest of 4.5 cm.", "hepatic cyst"),
    ("Possible small left pneumothorax.", "?pneumothorax/left"),
    ("No pleural effusion and a 14 mm nodule in the right lower lobe.", "-pleural effusion nodule/right/lower_lobe"),
    ("Adrenal glands without nodules.", "-adrenal nodule"),
    ("No mass effect on the trachea.", ""),
    ("Emphysema, no bullae.", "emphysema -bullae"),
    ("No pneumothorax; small right pleural effusion.", "-pneumothorax pleural effusion/right"),
    ("There is no pneumothorax, however there is subcutaneous emphysema.", "-pneumothorax subcutaneous emphysema"),
    ("Apart from a hiatal hernia there are no abnormalities.", "hiatal hernia"),
    ("Pleural effusion is not seen.", "-pleural effusion"),
    ("Consolidation, pneumothorax or effusion are not identified.", "-consolidation -pneumothorax -pleural effusion"),
    ("Bronchiectasis and honeycombing at both bases.", "bronchiectasis/bilateral/basal honeycombing/bilateral/basal"),
    ("A thick-walled cavitary lesion is noted in the RUL.", "cavity/right/upper_lobe"),
    ("Large right lower lobe mass invading the pleura.", "mass/right/lower_lobe"),
    ("Findings in keeping with COPD, no acute infiltrate.", "COPD -infiltrates"),
    ("Rule out pneumonia.", "?pneumonia"),
    ("No bone lesions.", ""),
    ("Normal heart and enlarged axillary lymph nodes.", "adenopathy/None/axillary"),
    ("Calcified aorta and dilated pulmonary trunk.", "aortic calcification pulmonary artery enlargement"),
    ("Two lung nodules in the left upper lobe.", "nodule/left/upper_lobe"),
    ("Calcific plaques are seen in the aorta and coronary arteries.", "aortic calcification coronary calcification"),
    ("The ascending aorta measures 43 mm and is ectatic.", "aortic aneurysm"),
    ("Compression deformity of T12.", "vertebral collapse/None/T12"),
    ("No evidence of aortic aneurysm or dissection.", "-aortic aneurysm -aortic dissection"),
    ("Pericardial effusion-thickening was not observed.", "-pericardial effusion -pericardial thickening"),
    ("Question of a small right apical pneumothorax.", "?pneumothorax/right/apical"),
    ("Almost complete resolution of the ground glass opacities.", "ground-glass opacity"),
    ("Interval resolution of right lower lobe consolidation.", "-consolidation/right/lower_lobe"),
    ("The left-sided effusion seen previously is no longer present.", "-pleural effusion/left"),
    ("Prominent mediastinal lymph nodes, not enlarged by CT criteria.", "-adenopathy"),
    ("Vertebral body heights are preserved.", ""),
    ("Small bilateral pleural effusions, right greater than left.", "pleural effusion/bilateral"),
]  # fmt: skip
SPANISH = [
    ("no se observan adenopatias mediastinicas ni hiliares", "-adenopathy"),
    ("sin derrame pleural ni neumotorax", "-pleural effusion -pneumothorax"),
    ("Derrame izquierdo y atelectasia del lóbulo inferior adyacente", "pleural effusion/left atelectasis/left"),
    ("derrame pleural bilateral de predominio derecho", "pleural effusion/bilateral"),
    ("ausencia de mama izquierda", "mastectomy/left"),
    ("antecedente de mastectomia derecha", "mastectomy/right"),
    ("antecedentes de neumonia bilateral", ""),
    ("ausencia de derrame", "-pleural effusion"),
    ("opacidades en vidrio deslustrado perifericas en ambos pulmones", "ground-glass opacity/bilateral/peripheral"),
    ("vidrio deslutrado en lid", "ground-glass opacity/right/lower_lobe"),
    ("nodulo de 8 mm en lsd", "nodule/right/upper_lobe"),
    ("Nódulos pulmonares milimétricos bilaterales", "nodule/bilateral"),
    ("masa de 45 mm en lobulo superior izquierdo", "mass/left/upper_lobe"),
    ("no se descarta tromboembolismo pulmonar", "?pulmonary embolism"),
    ("sin signos de tep", "-pulmonary embolism"),
    ("se descarta tep", "-pulmonary embolism"),
    ("posible atelectasia laminar en lingula", "?atelectasis/left/lingula"),
    ("corazon aumentado de tamaño", "cardiomegaly"),
    ("silueta cardiaca de tamano normal", ""),
    ("aumento del indice cardiotoracico", "cardiomegaly"),
    ("cavidades cardiacas de tamaño normal", ""),
    ("sin cambios en el derrame pericardico", "pericardial effusion"),
    ("derrame pleural no se observa", "-pleural effusion"),
    ("no derrame pleural pero si neumotorax izquierdo", "-pleural effusion pneumothorax/left"),
    ("nodulo no calcificado en lii y derrame pleural derecho", "nodule/left/lower_lobe pleural effusion/right"),
    ("tc torax sin contraste . cardiomegalia leve", "cardiomegaly"),
    ("aplastamiento vertebral de d8", "vertebral collapse/None/T8"),
    ("acuñamiento anterior del cuerpo vertebral T11", "vertebral collapse/None/T11"),
    ("fracturas de los arcos costales izquierdos", "rib fracture/left"),
    ("granuloma calcificado en lm", "calcified granuloma/right/middle_lobe"),
    ("ateromatosis calcificada aortica y coronaria", "aortic calcification coronary calcification"),
    ("aneurisma de aorta ascendente de 5,2 cm", "aortic aneurysm/None/ascending_aorta"),
    ("dilatacion del tronco de la arteria pulmonar", "pulmonary artery enlargement"),
    ("hernia de hiato por deslizamiento", "hiatal hernia"),
    ("bocio multinodular con extension endotoracica", "goitre"),
    ("marcapasos con electrodos en cavidades derechas", "pacemaker"),
    ("reservorio con acceso subclavio derecho", "central venous catheter/right"),
    ("engrosamiento pleural apical bilateral", "pleural thickening/bilateral/apical"),
    ("enfisema centrolobulillar de predominio en lobulos superiores", "emphysema/None/upper_lobe"),
    ("bronquiectasias cilindricas en ambas bases", "bronchiectasis/bilateral/basal"),
    ("patron en arbol en brote en lsi", "tree-in-bud/left/upper_lobe"),
    ("lesion cavitada en lobulo superior derecho", "cavity/right/upper_lobe"),
    ("fibrosis pulmonar con panalizacion", "pulmonary fibrosis honeycombing"),
    ("quistes hepaticos simples", "hepatic cyst"),
    ("escoliosis dorsal de convexidad derecha", "scoliosis/right"),
    ("ganglio axilar izquierdo aumentado de tamaño", "adenopathy/left/axillary"),
    ("ganglios mediastinicos no significativos por tamaño", ""),
    ("sin adenopatias salvo una hiliar derecha", "-adenopathy"),
    ("no se visualizan nodulos masas ni condensaciones", "-nodule -mass -consolidation"),
    ("el derrame ha desaparecido", "-pleural effusion"),
    ("neumotorax resuelto", "-pneumothorax"),
    ("atelectacia subsegmentaria en lid", "atelectasis/right/lower_lobe"),
    ("enfisema subcutaneo", "subcutaneous emphysema"),
    ("consolidacion en lii sugestiva de neumonia", "consolidation/left/lower_lobe ?pneumonia"),
    ("no hay evidencia de lesiones oseas liticas ni blasticas", "-bone metastasis"),
    ("suprarrenales sin nodulos", "-adrenal nodule"),
    ("sin efecto masa", ""),
    ("epoc con signos de enfisema", "COPD emphysema"),
    ("descartar neumonia covid 19", "?COVID-19"),
    ("se ha resuelto el derrame pleural derecho", "-pleural effusion/right"),
    ("disminucion del derrame pleural izquierdo respecto al previo", "pleural effusion/left"),
    ("imagen cavitada en segmento apical del lid", "cavity/right/lower_lobe"),
    ("aorta ascendente ectasica con un diametro de 42 mm", "aortic aneurysm/None/ascending_aorta"),
    ("minimo derrame pleural bilateral de predominio izquierdo", "pleural effusion/bilateral"),
    ("colapso del lobulo medio", "atelectasis/right/middle_lobe"),
    ("no derrame", "-pleural effusion"),
    ("quistes renales y hepaticos", "renal cyst hepatic cyst"),
    ("corazon normal y ganglios mediastinicos e hiliares aumentados de tamaño", "adenopathy"),
]  # fmt: skip


def facts(text: str) -> Iterator[tuple[str, str, str | None, str | None]]:
    """Read the notation of the tables above: (name, status, side, place)."""
    import re

    names = sorted(KEYWORDS, key=len, reverse=True)
    pattern = rf"([?-]?)({'|'.join(map(re.escape, names))})(?:/(\w+))?(?:/(\w+))?(?=\s|$)"
    signs = {"": "present", "?": "uncertain", "-": "absent"}
    found = list(re.finditer(pattern, text))
    assert " ".join(match[0] for match in found) == text, text
    for sign, name, side, place in (match.groups() for match in found):
        yield name, signs[sign], None if side == "None" else side, place and place.replace("_", " ")


def check(sentence: str, expected: str, language: Language) -> None:
    wanted = list(facts(expected))
    found = extract_findings(sentence, language)
    assert {(f.name, f.status) for f in found} == {(name, status) for name, status, _, _ in wanted}
    for name, _, side, place in wanted:
        mentions = [f for f in found if f.name == name]
        if side or place:
            assert {f.laterality for f in mentions} == {side}, mentions
        if place:
            assert {f.location for f in mentions} == {place}, mentions


@pytest.mark.parametrize(("sentence", "expected"), ENGLISH)
def test_an_english_sentence_is_read_as_a_radiologist_would(sentence: str, expected: str):
    check(sentence, expected, "en")


@pytest.mark.parametrize(("sentence", "expected"), SPANISH)
def test_a_spanish_sentence_is_read_as_a_radiologist_would(sentence: str, expected: str):
    check(sentence, expected, "es")


def test_every_phantom_finding_is_a_keyword():
    assert set(FINDINGS) <= set(KEYWORDS)


def test_there_are_over_fifty_keywords_with_words_in_both_languages():
    assert len(KEYWORDS) >= 50
    for keyword in KEYWORDS.values():
        assert keyword.names_en
        assert keyword.names_es


def test_every_parent_is_a_keyword_and_no_chain_is_a_ring():
    for keyword in KEYWORDS.values():
        seen = {keyword.name}
        parent = keyword.parent
        while parent:
            assert parent in KEYWORDS
            assert parent not in seen
            seen.add(parent)
            parent = KEYWORDS[parent].parent


def test_every_name_resolves_to_its_own_keyword():
    for keyword in KEYWORDS.values():
        for name in (*keyword.names_en, *keyword.names_es, *keyword.abbreviations):
            if ".." not in name:
                assert resolve_keyword(name) == keyword.name, name


def test_cuis_have_their_form_and_are_not_shared():
    cuis = [keyword.cui for keyword in KEYWORDS.values() if keyword.cui]
    assert len(set(cuis)) == len(cuis)
    assert all(cui[0] == "C" and len(cui) == 8 and cui[1:].isdigit() for cui in cuis)


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("GGO", "ground-glass opacity"),
        ("ggo", "ground-glass opacity"),
        ("Ground Glass", "ground-glass opacity"),
        ("vidrio deslustrado", "ground-glass opacity"),
        ("PE", "pulmonary embolism"),
        ("COPD", "COPD"),
        ("epoc", "COPD"),
        ("enlarged LN", "adenopathy"),
        ("ADENOPATÍAS", "adenopathy"),
        ("adenopatias", "adenopathy"),
        ("atelectases", "atelectasis"),
        ("goiter", "goitre"),
        ("hernia de hiato", "hiatal hernia"),
        ("derrame de la pleura", None),
        ("nodules", "nodule"),
        ("Nódulos", "nodule"),
        ("pulmonary edema", "pulmonary oedema"),
        ("sunburn", None),
        ("", None),
        ("...", None),
    ],
)
def test_any_name_of_a_keyword_finds_it(words: str, name: str | None):
    assert resolve_keyword(words) == name


@pytest.mark.parametrize(
    ("report", "sentences"),
    [
        ("tc torax . nodulo de 3.5 cm en lid . sin derrame .", ("tc torax", "nodulo de 3.5 cm en lid", "sin derrame")),
        ("nodulo de 3 . 5 cm en lid . fin", ("nodulo de 3.5 cm en lid", "fin")),
        ("Collapse of T8. No effusion.", ("Collapse of T8", "No effusion")),
        ("Seen by Dr. Smith. Normal.", ("Seen by Dr. Smith", "Normal")),
        ("A nodule of 4 mm. in the RUL.\nNo mass!", ("A nodule of 4 mm. in the RUL", "No mass!")),
        ("1. Effusion. 2. Nodule.", ("Effusion", "Nodule")),
        ("IMPRESSION:\n- Mass\n- Cyst", ("IMPRESSION:", "Mass", "Cyst")),
        ("A line that is\nwrapped goes on. Next.", ("A line that is wrapped goes on", "Next")),
        ("Nodule measuring approx. 5 mm.", ("Nodule measuring approx. 5 mm",)),
        ("", ()),
        (" . . ", ()),
    ],
)
def test_a_report_is_cut_into_its_sentences(report: str, sentences: tuple[str, ...]):
    assert split_sentences(report) == tuple(sentence.rstrip("!") for sentence in sentences)


@pytest.mark.parametrize(
    ("sentence", "language", "expected"),
    [
        ("No pleural effusion.", "en", True),
        ("Left pleural effusion.", "en", False),
        ("No effusion but left pneumothorax.", "en", False),
        ("No significant abnormalities.", "en", True),
        ("Suspicious lesions are not seen.", "en", True),
        ("Unenhanced CT of the chest.", "en", False),
        ("CT without contrast.", "en", False),
        ("Pneumonia cannot be excluded.", "en", False),
        ("sin hallazgos significativos", "es", True),
        ("no se observan adenopatias", "es", True),
        ("derrame pleural sin cambios", "es", False),
        ("tc torax sin contraste", "es", False),
        ("", "en", False),
    ],
)
def test_a_sentence_that_only_denies_is_known(sentence: str, language: Language, expected: bool):
    assert is_negated(sentence, language) is expected


def test_sizes_are_read_in_millimetres():
    assert extract_findings("Nodule of 1.2 cm in the RUL.", "en")[0].size_mm == 12.0
    assert extract_findings("aneurisma de aorta de 5,2 cm", "es")[0].size_mm == 52.0
    assert extract_findings("Mass of 2.3 x 1.8 cm in the RUL.", "en")[0].size_mm == 23.0
    first, second = extract_findings("A 9 mm nodule and a 35 mm mass.", "en")
    assert (first.size_mm, second.size_mm) == (9.0, 35.0)


def test_a_finding_that_is_present_somewhere_counts_as_present():
    report = "Left pleural effusion. No right pleural effusion."
    assert [(f.status, f.laterality) for f in extract_findings(report, "en")] == [("present", "left")]


def test_a_vaguer_mention_adds_no_second_finding():
    report = "Mass in the left upper lobe measuring 41 mm. Impression: lung mass."
    assert extract_findings(report, "en") == (Finding("mass", "present", "left", "upper lobe", 41.0),)


def test_abbreviations_are_written_out_only_where_they_are_meant():
    assert expand_abbreviations("LNs and GGO") == "lymph nodes and ground-glass opacity"
    assert expand_abbreviations("ggo in the rul") == "ground-glass opacity in the right upper lobe"
    assert expand_abbreviations("pe de pagina") == "pe de pagina"
    assert expand_abbreviations("derrame en hemitórax dcho", "es") == "derrame en hemitórax derecho"


def test_reading_is_total_on_odd_text():
    for odd in ("\x00\x01", "no no no", "((((", "sin", "..", "ñ" * 5000, "no " * 2000, ", , ,", "1.2.3.4"):
        for language in ("en", "es"):
            assert isinstance(extract_findings(odd, language), tuple)  # type: ignore[arg-type]  # plain str


@pytest.mark.parametrize(
    ("sentence", "language", "expected"),
    [
        ("ateletasia en lingula", "es", "atelectasis/left/lingula"),
        ("enfisma y bronquiectasas", "es", "emphysema bronchiectasis"),
        ("Persistent emphysma.", "en", "emphysema"),
        # Real words one letter away from one of ours.
        ("derrame en hemitorax izquierdo", "es", "pleural effusion/left"),
        ("impresion : derrame pleural", "es", "pleural effusion"),
        ("estudio de buena calidad", "es", ""),
        ("The lung parenchyma is clear.", "en", ""),
    ],
)
def test_one_slipped_letter_is_mended_and_other_words_are_left_alone(sentence: str, language: Language, expected: str):
    check(sentence, expected, language)


@pytest.mark.parametrize(
    ("sentence", "language", "expected"),
    [
        ("The adrenal glands are unremarkable, without nodules.", "en", "-adrenal nodule"),
        ("Kidneys: no hydronephrosis or calculi.", "en", "-hydronephrosis -nephrolithiasis"),
        ("Metastases to the liver.", "en", "hepatic metastasis"),
        ("A 9 mm nodule in the left breast.", "en", "breast mass/left"),
        ("higado sin lesiones focales", "es", "-hepatic lesion"),
        ("vesicula biliar con litiasis", "es", "cholelithiasis"),
        ("nodulo subcutaneo", "es", ""),
        # An organ that something parts from it does not claim it.
        ("Liver normal. Nodule in the right upper lobe.", "en", "nodule/right/upper_lobe"),
        ("Normal liver; pulmonary nodule.", "en", "nodule"),
        ("Two lesions are seen.", "en", ""),
    ],
)
def test_a_plain_word_is_read_as_the_organ_means_it(sentence: str, language: Language, expected: str):
    check(sentence, expected, language)


@pytest.mark.parametrize(
    ("sentence", "language", "expected"),
    [
        ("adenopatias: no", "es", "-adenopathy"),
        ("Atelectasis versus pneumonia at the right base.", "en", "?atelectasis/right ?pneumonia/right"),
        ("Nodule or scar.", "en", "?nodule ?laminar scarring"),
        ("No nodule or mass.", "en", "-nodule -mass"),
        ("probablemente en relacion con edema pulmonar", "es", "?pulmonary oedema"),
        ("probable neumonia con derrame izquierdo", "es", "?pneumonia pleural effusion/left"),
        (
            "Opacities are present in both lower lobes, suspicious for pneumonia.",
            "en",
            "lung opacity/bilateral ?pneumonia",
        ),
        ("No enlarged mediastinal, hilar, or axillary lymph nodes.", "en", "-adenopathy"),
        ("fractura no desplazada de la sexta costilla derecha", "es", "rib fracture/right"),
        ("Stent in the left anterior descending artery.", "en", "stent"),
        ("nodulo tiroideo a valorar por ecografia", "es", "thyroid nodule"),
    ],
)
def test_denial_doubt_and_side_reach_as_far_as_they_are_meant(sentence: str, language: Language, expected: str):
    check(sentence, expected, language)


@pytest.mark.parametrize(
    ("sentence", "language", "expected"),
    [
        # Fleischner glossary: filled airspaces are consolidation; reticulation alone is no fibrosis.
        ("Bilateral alveolar infiltrates.", "en", "consolidation/bilateral"),
        ("Right basal infiltrate.", "en", "infiltrates/right"),
        ("Parenchymal opacification in the left lung.", "en", "lung opacity/left"),
        ("Basal reticulation.", "en", "interstitial lung disease"),
        ("Basal reticulation and fibrosis.", "en", "pulmonary fibrosis"),
        ("tractos fibrosos y reticulacion basal", "es", "pulmonary fibrosis"),
    ],
)
def test_overlapping_names_are_read_by_the_glossary(sentence: str, language: Language, expected: str):
    check(sentence, expected, language)


@pytest.mark.parametrize(
    ("sentence", "language", "expected"),
    [
        ("?PE", "en", "?pulmonary embolism"),
        ("New consolidation? No effusion.", "en", "?consolidation -pleural effusion"),
        ("¿tep?", "es", "?pulmonary embolism"),
        # A question mark inside a word is a broken letter.
        ("derrame pleural peque?o", "es", "pleural effusion"),
        ("Small effusions, now resolved.", "en", "-pleural effusion"),
        ("Small effusion, consolidation not seen.", "en", "pleural effusion -consolidation"),
        ("No effusion, consolidation, pneumothorax.", "en", "-pleural effusion -consolidation -pneumothorax"),
        ("No effusion, cardiomegaly.", "en", "-pleural effusion cardiomegaly"),
        ("No effusion, consolidation, pneumothorax, mild emphysema.", "en",
         "-pleural effusion -consolidation -pneumothorax emphysema"),
        ("Consolidation likely infectious.", "en", "consolidation"),
        ("Consolidation, pneumonia likely.", "en", "consolidation ?pneumonia"),
        ("Pneumonia must be excluded.", "en", "?pneumonia"),
        ("Effusion with atelectasis versus pneumonia.", "en", "pleural effusion ?atelectasis ?pneumonia"),
        ("antecedentes: epoc, neumonia en 2015", "es", "COPD"),
        ("The effusion is larger than on the prior study.", "en", "pleural effusion"),
        ("nodulos hepaticos, probables metastasis", "es", "hepatic lesion ?hepatic metastasis"),
    ],
)  # fmt: skip
def test_questions_headings_lists_and_appended_words_are_understood(sentence: str, language: Language, expected: str):
    check(sentence, expected, language)


@pytest.mark.parametrize(
    ("sentence", "language", "expected"),
    [
        ("The pericardium is normal, without effusion.", "en", "-pericardial effusion"),
        ("Pleural effusion and normal pericardium.", "en", "pleural effusion"),
        ("Pleura: plaques bilaterally.", "en", "pleural plaques/bilateral"),
        ("Hypodensities in the liver, but likely cysts.", "en", "hepatic lesion ?hepatic cyst"),
        ("Collapse of T8.", "en", "vertebral collapse"),
        ("Tracheal collapse.", "en", ""),
        ("Pleural-based soft tissue mass.", "en", "pleural mass"),
        ("Degenerative changes of both shoulders.", "en", "shoulder osteoarthritis/bilateral"),
        (
            "calcificacion coronaria y de valvula aortica",
            "es",
            "coronary calcification valvular calcification",
        ),
        ("aumento del numero de ganglios mediastinicos", "es", ""),
        ("Lymph nodes of non-pathological size.", "en", ""),
    ],
)
def test_a_word_means_what_the_organ_beside_it_makes_of_it(sentence: str, language: Language, expected: str):
    check(sentence, expected, language)


@pytest.mark.parametrize(
    ("sentence", "language", "expected"),
    [
        ("The nodule is most likely a granuloma.", "en", "nodule ?calcified granuloma"),
        ("Consolidation is likely infectious.", "en", "consolidation"),
        ("Pneumonia is likely.", "en", "?pneumonia"),
        ("Pneumonia is likely given the fever.", "en", "?pneumonia"),
        ("Organizing pneumonia is felt to be less likely.", "en", "?organising pneumonia"),
        ("Lymphoma is favored over sarcoidosis.", "en", "?lymphoma ?sarcoidosis"),
        ("linfoma mas probable que sarcoidosis", "es", "?lymphoma ?sarcoidosis"),
        ("Atelectasis indistinguishable from pneumonia.", "en", "?atelectasis ?pneumonia"),
        ("Appearance atypical for COVID-19.", "en", "?COVID-19"),
        ("Doubt pneumonia.", "en", "?pneumonia"),
        ("Non-visualization of the left pneumothorax.", "en", "-pneumothorax/left"),
        ("PE protocol CT.", "en", ""),
        ("Lytic lesion in T11, worrisome for osseous metastasis.", "en", "?bone metastasis/None/T11"),
        ("Lytic lesion in T11 and suspected rib metastasis.", "en", "bone metastasis/None/T11"),
        ("The spleen measures 15 cm, enlarged.", "en", "splenomegaly"),
        ("Liver unremarkable, enlarged uterus.", "en", ""),
        ("Adrenal glands without nodularity.", "en", "-adrenal nodule"),
        ("Cavitary nodule in the left upper lobe.", "en", "cavity nodule/left/upper_lobe"),
        ("No enlarged axillary, supraclavicular or hilar lymph nodes.", "en", "-adenopathy/None/axillary"),
    ],
)
def test_doubt_and_denial_reach_what_they_are_said_of(sentence: str, language: Language, expected: str):
    check(sentence, expected, language)


@pytest.mark.parametrize(
    ("sentence", "language", "expected"),
    [
        ("The differential includes edema, diffuse alveolar hemorrhage and pneumonia.", "en",
         "?pulmonary oedema ?alveolar haemorrhage ?pneumonia"),
        ("Negative for embolism, aortic dissection and pneumonia.", "en",
         "-pulmonary embolism -aortic dissection -pneumonia"),
        ("Likely atelectasis rather than pneumonia.", "en", "?atelectasis ?pneumonia"),
        ("Atelectasis rather than pneumonia.", "en", "atelectasis -pneumonia"),
        ("None of the nodules shows cavitation.", "en", "nodule -cavity"),
        ("Right upper lobectomy for lung cancer.", "en", "lobectomy/right"),
        ("Nodules, s/o TB.", "en", "nodule ?tuberculosis"),
        ("Mild hepatosplenomegaly.", "en", "hepatomegaly splenomegaly"),
        ("No hepatosplenomegaly.", "en", "-hepatomegaly -splenomegaly"),
        ("Gall bladder shows multiple calculi.", "en", "cholelithiasis"),
        ("Tortuous, calcified aorta.", "en", "aortic elongation aortic calcification"),
        ("Not enlarged, calcified nodes.", "en", "calcified adenopathy"),
        ("Liver metastases have increased in size.", "en", "hepatic metastasis"),
        ("metastasis hepaticas que han aumentado de tamaño", "es", "hepatic metastasis"),
        ("Atrophic pancreas without ductal dilatation.", "en", ""),
        ("Hyperinflated lungs.", "en", ""),
        ("Septic emboli.", "en", ""),
        ("Consolidation in the left lung with air bronchograms.", "en", "consolidation/left air bronchogram/left"),
        ("fracturas costales en fase de consolidacion", "es", "rib fracture"),
    ],
)  # fmt: skip
def test_lists_joined_words_and_other_turns_of_speech_are_understood(sentence: str, language: Language, expected: str):
    check(sentence, expected, language)


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("Pleural effusion and bronchial wall thickening.", "pleural effusion bronchial wall thickening"),
        ("Pleural effusion and lung mass.", "pleural effusion mass"),
        ("Hepatic steatosis and a renal cyst.", "hepatic steatosis renal cyst"),
        ("Coronary calcification and dilated aorta.", "coronary calcification aortic aneurysm"),
        ("Enlarged heart and subcentimetre mediastinal nodes.", "cardiomegaly"),
        ("Enlarged para-aortic lymph nodes.", "adenopathy"),
        ("Hilar lymph nodes are enlarged.", "adenopathy"),
        ("Normal heart without enlarged lymph nodes.", "-adenopathy"),
        ("Dilated small bowel loops anterior to the aorta.", ""),
        ("Calcified lymph node adjacent to a lung nodule.", "calcified adenopathy nodule"),
        ("Stranding of the mediastinal fat.", ""),
        ("Decreased volume of the pleural effusion.", "pleural effusion"),
        ("Small amount of fluid in the left hemithorax.", "pleural effusion/left"),
        ("The mass infiltrates the mediastinal fat.", "mass"),
        ("Hepatic flexure mass.", ""),
        ("Loss of intervertebral disc height.", "degenerative spine changes"),
        ("Indication: respiratory distress.", ""),
        ("Filling defect in the left atrial appendage.", ""),
        ("Aneurysm of the right popliteal artery.", ""),
        ("Cystic fibrosis with bronchiectasis.", "bronchiectasis"),
        ("Renal cortical scarring.", ""),
        ("Emphysematous cholecystitis.", ""),
        ("Pelvic abscess.", ""),
        ("Mass in the sigmoid colon.", ""),
        ("Thickened interatrial septum.", ""),
        ("Thyroid lobectomy.", ""),
        ("Pacemaker without lead fracture.", "pacemaker"),
        ("Bowel wall oedema.", ""),
        ("Cerebral volume loss.", ""),
        ("Sternal fracture and bruised ribs.", "fracture"),
        ("Fatty liver and a pancreatic cyst.", "hepatic steatosis pancreatic lesion"),
        ("Referred to the lung nodule clinic.", ""),
        ("The mother died of lung cancer.", ""),
        ("Previous TB with calcified hilar nodes.", "calcified adenopathy"),
        ("Triple vessel coronary artery disease.", ""),
        ("Post right pneumonectomy.", ""),
        ("Tiny nonspecific pulmonary nodules.", "nodule"),
        ("Infarct in the upper pole of the spleen.", ""),
    ],
)
def test_words_that_another_organ_or_another_noun_owns_name_no_finding(sentence: str, expected: str):
    check(sentence, expected, "en")


@pytest.mark.parametrize(
    ("sentence", "language", "expected"),
    [
        ("No interval resolution of the consolidation.", "en", "consolidation"),
        ("Follow-up is advised to ensure resolution of the consolidation.", "en", "consolidation"),
        ("CT shows resolution of the consolidation.", "en", "-consolidation"),
        ("The consolidation has largely cleared.", "en", "consolidation"),
        ("A right effusion, not seen on the prior study.", "en", "pleural effusion/right"),
        ("derrame pleural derecho, no presente en el tc previo", "es", "pleural effusion/right"),
        ("Pericardial effusion, if any, is trivial.", "en", "?pericardial effusion"),
        ("The tube should be withdrawn: endotracheal tube tip at the carina.", "en", "endotracheal tube"),
        (
            "Endotracheal tube no longer in situ; nasogastric tube in place.",
            "en",
            "-endotracheal tube nasogastric tube",
        ),
        ("Interval extubation.", "en", "-endotracheal tube"),
        ("Residual left pneumothorax after chest drain removal.", "en", "pneumothorax/left -chest tube"),
        ("No pleural effusion on the right; a small one persists on the left.", "en", "pleural effusion/left"),
        ("Small right pleural effusion, none on the left.", "en", "pleural effusion"),
        ("Honeycombing is not a feature.", "en", "-honeycombing"),
        ("Pneumonia was queried; CT shows no pneumonia.", "en", "-pneumonia"),
        ("Adenopathy; sarcoid is the likeliest cause.", "en", "adenopathy ?sarcoidosis"),
        ("Mosaic perfusion with no air trapping.", "en", "-air trapping"),
        ("The aorta is ectatic but not aneurysmal.", "en", "-aortic aneurysm"),
        ("The main pulmonary artery (34 mm) is enlarged.", "en", "pulmonary artery enlargement"),
        ("Lymph nodes: none enlarged.", "en", "-adenopathy"),
        ("Costophrenic angles are sharp, without blunting.", "en", "-costophrenic angle blunting"),
        ("Bones: no acute fracture or aggressive lesion.", "en", "-fracture -bone metastasis"),
        ("Sclerotic deposits in T4 and T9, known prostate metastases.", "en", "bone metastasis"),
        ("I cannot see any evidence of bronchiectasis.", "en", "-bronchiectasis"),
        ("This may simply represent atelectasis.", "en", "?atelectasis"),
        ("Differential: pneumonia, pulmonary oedema.", "en", "?pneumonia ?pulmonary oedema"),
    ],
)
def test_families_of_denial_and_doubt_are_read(sentence: str, language: Language, expected: str):
    check(sentence, expected, language)


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("ca de pulmon microcitico", "lung cancer"),
        ("mtx pulmonares en progresion", "pulmonary metastasis"),
        ("enfermedad metastasica hepatica y osea", "hepatic metastasis bone metastasis"),
        ("dilatacion y engrosamiento de las paredes bronquiales", "bronchiectasis bronchial wall thickening"),
        ("imagenes lineales cicatriciales en lii", "laminar scarring/left"),
        ("opacidades parcheadas en vidrio deslustrado en ambos pulmones", "ground-glass opacity/bilateral"),
        ("blebs apicales bilaterales", "bullae/bilateral"),
        ("trasplantado unipulmonar izquierdo", "lung transplant/left"),
        ("seno cf izquierdo ocupado", "costophrenic angle blunting/left"),
        ("calcificaciones ateromatosas en arterias coronarias", "coronary calcification"),
        ("fx costal derecha", "rib fracture/right"),
        ("fracturas costales antiguas consolidadas", "rib fracture"),
        ("interposicion colica hepatodiafragmatica", "Chilaiditi sign"),
        ("esofago con engrosamiento difuso de su pared", "oesophageal thickening"),
        ("imagen hipodensa renal compatible con quiste", "renal cyst"),
        ("aumento de densidad de la grasa mediastinica", ""),
        ("pulmones libres de nodulos o masas", "-nodule -mass"),
        ("se descarta la presencia de tep", "-pulmonary embolism"),
        ("ya no se visualiza el derrame", "-pleural effusion"),
        ("no se observan: nodulos, masas, consolidaciones", "-nodule -mass -consolidation"),
        ("no se observa progresion del derrame", "pleural effusion"),
        ("nodulo en lid, no presente en tc de 2020", "nodule/right/lower_lobe"),
        ("sin que se pueda descartar neumonia ni absceso", "?pneumonia ?lung abscess"),
        ("nodulo dudoso en base derecha", "?nodule/right/basal"),
        ("minima lamina de derrame pleural izquierdo, dudosa", "?pleural effusion/left"),
        ("hallazgo mas compatible con atelectasia que con neumonia", "?atelectasis ?pneumonia"),
        ("en primer lugar habria que pensar en linfoma", "?lymphoma"),
        ("ca de pulmon intervenido, lobectomia superior derecha", "lobectomy/right"),
    ],
)
def test_the_usual_words_of_spanish_reports_are_known(sentence: str, expected: str):
    check(sentence, expected, "es")


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("Could be atelectasis or, less likely, pneumonia.", "?atelectasis ?pneumonia"),
        ("More consistent with oedema than pneumonia.", "?pulmonary oedema ?pneumonia"),
        ("Could represent viral or other atypical pneumonia.", "?viral pneumonia ?atypical pneumonia"),
        ("A left adrenal nodule concerning for metastasis.", "adrenal nodule/left ?metastasis"),
        ("Opacities in both hemithoraces.", "lung opacity/bilateral"),
    ],
)
def test_the_same_turns_of_speech_are_read_in_english(sentence: str, expected: str):
    check(sentence, expected, "en")


@pytest.mark.parametrize(
    ("word", "same"),
    [
        ("visualised", "visualized"), ("demineralisation", "demineralization"), ("granulomata", "granulomas"),
        ("dilation", "dilatation"), ("abscesses", "abscess"), ("bronchiectases", "bronchiectasis"),
        ("stenoses", "stenosis"),
    ],
)  # fmt: skip
def test_spellings_and_plurals_of_one_word_share_a_key(word: str, same: str):
    assert stem(word, "en") == stem(same, "en")


@pytest.mark.parametrize(
    ("half", "language", "floor"),
    [
        ("b", "en", 0.97), ("b", "es", 0.97), ("d", "en", 0.97), ("d", "es", 0.97),
        ("g", "en", 0.97), ("g", "es", 0.97), ("j", "en", 0.97), ("j", "es", 0.97),
        ("l", "en", 0.97), ("l", "es", 0.97),
    ],
)  # fmt: skip
def test_whole_sentences_are_read_as_their_writers_meant_them(half: str, language: Language, floor: float):
    # benchmarks/keywords.py prints the scores with their intervals.
    names = "keywords.txt" if half == "b" else "keywords_2.txt"
    scored = frozenset((GOLD / names).read_text(encoding="utf-8").split("\n"))
    right = wrong = missed = 0
    for line in (GOLD / f"sentences_{language}.tsv").read_text(encoding="utf-8").splitlines():
        part, sentence, notation = line.split("\t")
        if part != half:
            continue
        wanted = settle({(fact[1:].partition("@")[0], SIGNS[fact[0]]) for fact in notation.split("; ") if fact})
        read = settle({(f.name, f.status) for f in extract_findings(sentence, language) if f.name in scored})
        right, wrong, missed = right + len(wanted & read), wrong + len(read - wanted), missed + len(wanted - read)
    assert right > 50
    assert 2 * right / (2 * right + wrong + missed) >= floor


GOLD = Path(__file__).parent / "gold"
SIGNS = {"+": "present", "-": "absent", "?": "uncertain"}


def settle(facts: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """Drop what its own kind implies: "pneumonia" beside "COVID-19"."""
    implied = set()
    for name, status in facts:
        while parent := KEYWORDS[name].parent:
            implied.add((parent, status))
            name = parent
    return facts - implied


@pytest.mark.parametrize(
    "unit", ["sin derrame pleural ni ", "mass or ", "nodulo, ", "\n", " ", "1. ", "aorta calcification "]
)
@pytest.mark.parametrize("language", ["en", "es"])
def test_reading_time_is_proportional_to_length(unit: str, language: Language):
    def seconds(times: int) -> float:
        start = time.process_time()
        extract_findings(unit * times, language)
        return time.process_time() - start

    seconds(100)
    # Eight times as much text: quadratic time would be 64 times as long.
    assert seconds(4000) < 24 * max(min(seconds(500) for _ in range(3)), 0.002)


def test_importing_the_library_reads_no_file(monkeypatch: pytest.MonkeyPatch):
    for name in [name for name in sys.modules if name.startswith(keywords.__name__)]:
        monkeypatch.delitem(sys.modules, name)
    fresh = importlib.import_module(keywords.__name__)
    library = importlib.import_module(f"{keywords.__name__}.library")
    assert library.load_tables.cache_info().currsize == 0
    assert len(fresh.KEYWORDS) >= 50
    assert library.load_tables.cache_info().currsize == 1


# ----------------------------------------------------------------------------------------- agreement on phantom reports


def draw_study(rng: np.random.Generator) -> list[Finding]:
    findings = []
    for name, kind in FINDINGS.items():
        if rng.random() >= kind.base_rate:
            continue
        side = kind.sides[int(rng.integers(len(kind.sides)))] if kind.sides else None
        lobes = LOBES.get(side or "", ("peripheral", "diffuse")) if kind.in_lobes else kind.locations
        location = lobes[int(rng.integers(len(lobes)))] if lobes else None
        if location in ("hilar", "axillary"):
            side = "left" if rng.random() < 0.5 else "right"
        size_mm = float(rng.uniform(*kind.size_mm)) if kind.size_mm else None
        count = int(rng.integers(1, kind.max_count + 1)) if kind.max_count > 1 else None
        grade = kind.grades[int(rng.integers(len(kind.grades)))] if kind.grades else None
        findings.append(Finding(name, "present", side, location, size_mm, count, grade))  # type: ignore[arg-type]  # str
    return findings


@pytest.mark.parametrize("language", ["en", "es"])
def test_what_is_read_agrees_with_what_phantoms_have(language: Language):
    rng = np.random.default_rng(20)
    right = wrong = missed = sides = sides_right = 0
    for _ in range(300):
        findings = draw_study(rng)
        report = write_report(findings=findings, sex="F", age_years=60, contrast=True, rng=rng)
        said = extract_findings(report.english if language == "en" else report.spanish, language)
        true = {finding.name for finding in findings}
        told = {finding.name for finding in said if finding.status != "absent"} & set(FINDINGS)
        right, wrong, missed = right + len(true & told), wrong + len(told - true), missed + len(true - told)
        for finding in findings:
            read = {f.laterality for f in said if f.name == finding.name} - {None}
            if finding.laterality and read:
                sides, sides_right = sides + 1, sides_right + (read == {finding.laterality})
    assert right > 500
    assert 2 * right / (2 * right + wrong + missed) >= 0.97
    assert sides_right / sides >= 0.95

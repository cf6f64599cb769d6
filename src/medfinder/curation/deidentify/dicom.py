"""One DICOM CT image without its patient: the Basic Profile of PS3.15, told as what may stay.

In: a dataset as read by pydicom, a key. Out: another one that holds the pixels as they were, what is needed to read
them, how they were made, sex, age, size and weight, dates moved by the patient's shift and UIDs renamed by the key.
Whatever is not on the list is left out, at every depth: private tags, overlays, curves, descriptions, names. Refused:
images that may show a name in their pixels, and what is no CT image.

Source: DICOM PS3.15, E.2 (Basic Profile), E.3.7 (Retain Patient Characteristics), E.3.6 (Retain Longitudinal Temporal
Information, Modified Dates). Options that are not taken: descriptors, device and institution identity, safe private.
"""

import re
from datetime import date, timedelta
from typing import Any, Final

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import PYDICOM_IMPLEMENTATION_UID

from medfinder.curation.deidentify.keys import OLDEST_TOLD, Key, pseudonym, shift_days
from medfinder.errors import StudyError
from medfinder.sources.files import hash_id

METHOD: Final = "medfinder: PS3.15 Basic Profile, patient characteristics kept, dates modified"
_CODES: Final = (
    ("113100", "Basic Application Confidentiality Profile"),
    ("113107", "Retain Longitudinal Temporal Information Modified Dates Option"),
    ("113108", "Retain Patient Characteristics Option"),
)
CT_CLASSES: Final = tuple(f"1.2.840.10008.5.1.4.1.1.2{tail}" for tail in ("", ".1", ".2"))
_STANDARD_UIDS: Final = "1.2.840.10008."

_KEPT_PIXELS: Final = """
SamplesPerPixel PhotometricInterpretation Rows Columns NumberOfFrames BitsAllocated BitsStored HighBit
PixelRepresentation PixelSpacing PixelAspectRatio PixelPaddingValue PixelPaddingRangeLimit SmallestImagePixelValue
LargestImagePixelValue PixelData FloatPixelData DoubleFloatPixelData ExtendedOffsetTable ExtendedOffsetTableLengths
RescaleIntercept RescaleSlope RescaleType WindowCenter WindowWidth VOILUTFunction LossyImageCompression
LossyImageCompressionRatio LossyImageCompressionMethod PresentationLUTShape BurnedInAnnotation
RecognizableVisualFeatures PlanarConfiguration
"""
_KEPT_GEOMETRY: Final = """
ImagePositionPatient ImageOrientationPatient SliceLocation SliceThickness SpacingBetweenSlices PatientPosition
InstanceNumber SeriesNumber AcquisitionNumber ImagesInAcquisition TemporalPositionIdentifier NumberOfTemporalPositions
PositionReferenceIndicator Laterality ImageLaterality PatientOrientation InStackPositionNumber StackID
DimensionIndexValues
"""
_KEPT_TECHNIQUE: Final = """
SpecificCharacterSet ImageType SOPClassUID Modality Manufacturer ManufacturerModelName SoftwareVersions
BodyPartExamined ScanOptions KVP DataCollectionDiameter ReconstructionDiameter DistanceSourceToDetector
DistanceSourceToPatient GantryDetectorTilt TableHeight RotationDirection ExposureTime XRayTubeCurrent Exposure
ExposureInuAs ExposureInmAs FilterType GeneratorPower FocalSpots ConvolutionKernel RevolutionTime
SingleCollimationWidth TotalCollimationWidth TableSpeed TableFeedPerRotation SpiralPitchFactor ExposureModulationType
EstimatedDoseSaving CTDIvol DataCollectionCenterPatient ReconstructionTargetCenterPatient SpatialResolution
AcquisitionType ContrastBolusVolume ContrastBolusIngredient ReconstructionAlgorithm ReconstructionFieldOfView
ReconstructionPixelSpacing ReconstructionAngle FrameType PixelPresentation VolumetricProperties
VolumeBasedCalculationTechnique MultienergyCTAcquisition TubeAngle ConstantVolumeFlag FluoroscopyFlag ImageFilter
FilterMaterial CalciumScoringMassFactorPatient EnergyWeightingFactor CodeValue CodingSchemeDesignator CodeMeaning
QualityControlImage ContentQualification ComplexImageComponent AcquisitionContrast FrameAcquisitionNumber
FrameReferenceTime FrameAcquisitionDuration TemporalPositionIndex FunctionalGroupPointer DimensionIndexPointer
FrameLaterality
"""
_KEPT_PATIENT: Final = "PatientSex PatientSize PatientWeight PregnancyStatus SmokingStatus"
_KEPT_TIMES: Final = "StudyTime SeriesTime AcquisitionTime ContentTime"
_SHIFTED: Final = frozenset(
    [
        "StudyDate",
        "SeriesDate",
        "AcquisitionDate",
        "ContentDate",
        "AcquisitionDateTime",
        "FrameAcquisitionDateTime",
        "FrameReferenceDateTime",
    ]
)
_RENAMED: Final = frozenset(
    [
        "SOPInstanceUID",
        "StudyInstanceUID",
        "SeriesInstanceUID",
        "FrameOfReferenceUID",
        "ReferencedSOPInstanceUID",
        "ConcatenationUID",
        "SynchronizationFrameOfReferenceUID",
        "DimensionOrganizationUID",
        "IrradiationEventUID",
    ]
)
_ENTERED: Final = frozenset(
    [
        "SharedFunctionalGroupsSequence",
        "PerFrameFunctionalGroupsSequence",
        "PixelMeasuresSequence",
        "PlanePositionSequence",
        "PlaneOrientationSequence",
        "PixelValueTransformationSequence",
        "FrameContentSequence",
        "CTImageFrameTypeSequence",
        "CTAcquisitionTypeSequence",
        "CTAcquisitionDetailsSequence",
        "CTTableDynamicsSequence",
        "CTGeometrySequence",
        "CTReconstructionSequence",
        "CTExposureSequence",
        "CTXRayDetailsSequence",
        "CTPositionSequence",
        "FrameVOILUTSequence",
        "FrameAnatomySequence",
        "AnatomicRegionSequence",
        "ViewCodeSequence",
        "DimensionOrganizationSequence",
        "DimensionIndexSequence",
        "ReferencedImageSequence",
        "SourceImageSequence",
        "PurposeOfReferenceCodeSequence",
        "IrradiationEventIdentificationSequence",
        "ContrastBolusAgentSequence",
    ]
)
_KEPT: Final = frozenset(
    (
        _KEPT_PIXELS + _KEPT_GEOMETRY + _KEPT_TECHNIQUE + _KEPT_PATIENT + " " + _KEPT_TIMES + " ReferencedSOPClassUID"
    ).split()
)
# Type 2 attributes of the CT image: they must be there and say nothing.
_EMPTIED: Final = ("PatientBirthDate", "ReferringPhysicianName", "StudyID", "AccessionNumber")
# Value representations that people type into; a whitelisted one is still looked through.
_TYPED: Final = frozenset(("LO", "SH", "ST", "LT", "UT", "UC", "CS"))
_TELLING: Final = [
    "PatientName",
    "PatientID",
    "OtherPatientIDs",
    "OtherPatientNames",
    "PatientMotherBirthName",
    "AccessionNumber",
    "StudyID",
    "ReferringPhysicianName",
    "PerformingPhysicianName",
    "OperatorsName",
    "NameOfPhysiciansReadingStudy",
    "RequestingPhysician",
    "PhysiciansOfRecord",
    "InstitutionName",
]


def find_refusal(header: Any) -> tuple[str, str] | None:
    """Tell why an image cannot be let out: reason and figures; None when it can."""
    sop_class = str(header.get("SOPClassUID", ""))
    if str(header.get("BurnedInAnnotation", "")).strip().upper() == "YES":
        return "burned-in annotation", "BurnedInAnnotation is YES; expected NO or nothing"
    if sop_class not in CT_CLASSES:
        return (
            "not a CT image",
            f"SOP class {sop_class or 'missing'} (capture, report, other modality); expected CT images",
        )
    if "Rows" not in header:
        return "no image", "an object without Rows; expected images"
    if str(header.get("PhotometricInterpretation", "")).strip() not in ("MONOCHROME1", "MONOCHROME2"):
        return "colour image", "a CT slice is grey; colour may carry writing"
    words = {str(word).strip().upper() for word in _listed(header.get("ImageType"))}
    if words & {"SCREEN SAVE", "SCREEN_SAVE", "SCREENSHOT", "DOSE_INFO", "PROTOCOL", "SECONDARY CAPTURE"}:
        return "screen capture", "ImageType names a capture or dose page, which carries writing"
    for element in header:
        if element.tag.group & 0xFF00 == 0x6000 and element.tag.element == 0x0102 and element.value:
            return "overlay in pixels", f"OverlayBitPosition {element.value}; the pixels' spare bits may carry writing"
    return None


def deidentify_image(image: Dataset, key: Key) -> Dataset:
    """Make a copy of one CT image that tells nothing of who was examined.

    Raises:
        StudyError: the image may carry writing in its pixels, or is no CT image.
    """
    refusal = find_refusal(image)
    if refusal is not None:
        raise StudyError(f"{refusal[0]}: {refusal[1]}")
    patient = str(image.get("PatientID") or "").strip() or str(image.get("StudyInstanceUID", ""))
    patient_id = hash_id("patient", patient)
    clean = _copy(image, key, shift_days(key, patient_id), _telling_words(image))
    clean.PatientID = pseudonym(key, "patient", patient_id)
    clean.PatientName = clean.PatientID
    clean.PatientAge = _told_age(image.get("PatientAge"))
    for keyword in _EMPTIED:
        setattr(clean, keyword, "")
    _mark(clean)
    clean.file_meta = _file_meta(image, clean)
    return clean


def rename_uid(key: Key, uid: str) -> str:
    """Give a UID another name; the standard's own stay.

    Source: PS3.5, B.2: ``2.25.`` and a number of 128 bits.

    Example:
        >>> rename_uid(Key(bytes(32)), "1.2.840.10008.5.1.4.1.1.2")
        '1.2.840.10008.5.1.4.1.1.2'
        >>> rename_uid(Key(bytes(32)), "1.2.3")[:5]
        '2.25.'
    """
    if not uid or uid.startswith(_STANDARD_UIDS):
        return uid
    return f"2.25.{int.from_bytes(key.digest('uid', uid)[:16], 'big')}"


def _copy(source: Dataset, key: Key, shift: int, telling: frozenset[str]) -> Dataset:
    clean = Dataset()
    for element in source:
        keyword = element.keyword
        if element.tag.is_private or not keyword:
            continue
        if keyword in _ENTERED and element.VR == "SQ":
            items = [_copy(item, key, shift, telling) for item in element.value]
            clean.add_new(element.tag, "SQ", Sequence(items))
        elif keyword in _SHIFTED:
            moved = _shift_date(str(element.value or ""), shift)
            if moved:
                clean.add_new(element.tag, element.VR, moved)
        elif keyword in _RENAMED:
            names = [rename_uid(key, str(uid)) for uid in _listed(element.value)]
            clean.add_new(element.tag, "UI", names[0] if len(names) == 1 else names)
        elif keyword in _KEPT and not _tells(element, telling):
            clean.add(element)
    return clean


def _telling_words(image: Dataset) -> frozenset[str]:
    """Gather the words of names and ids, so that a copy of them elsewhere is seen."""
    values = (str(value) for keyword in _TELLING for value in _listed(image.get(keyword)))
    return frozenset(word for value in values for word in re.findall(r"\w{4,}", value.lower()))


def _tells(element: Any, telling: frozenset[str]) -> bool:
    if element.VR not in _TYPED:
        return False
    text = " ".join(str(value) for value in _listed(element.value)).lower()
    return "^" in text or any(word in telling for word in re.findall(r"\w{4,}", text))


def _shift_date(value: str, days: int) -> str:
    """Move a DA or DT value; empty when it is none."""
    found = re.match(r"(\d{4})[.]?(\d\d)[.]?(\d\d)", value.strip())
    if not found:
        return ""
    try:
        moved = date(int(found[1]), int(found[2]), int(found[3])) + timedelta(days=days)
    except (ValueError, OverflowError):
        return ""
    return f"{moved:%Y%m%d}{value.strip()[found.end() :]}"


def _told_age(value: Any) -> str:
    found = re.fullmatch(r"(\d{3})([DWMY])", str(value or "").strip())
    if not found:
        return ""
    return f"{OLDEST_TOLD:03d}Y" if found[2] == "Y" and int(found[1]) > OLDEST_TOLD - 1 else found[0]


def _mark(clean: Dataset) -> None:
    """Say in the image itself what was done. Source: PS3.15, E.1.1 and PS3.3, C.12.1."""
    clean.PatientIdentityRemoved = "YES"
    clean.DeidentificationMethod = METHOD[:64]
    clean.LongitudinalTemporalInformationModified = "MODIFIED"
    codes = []
    for value, meaning in _CODES:
        code = Dataset()
        code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, "DCM", meaning
        codes.append(code)
    clean.DeidentificationMethodCodeSequence = Sequence(codes)


def _file_meta(image: Dataset, clean: Dataset) -> FileMetaDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = clean.SOPClassUID
    meta.MediaStorageSOPInstanceUID = clean.get("SOPInstanceUID", "")
    meta.TransferSyntaxUID = image.file_meta.TransferSyntaxUID
    meta.ImplementationClassUID = PYDICOM_IMPLEMENTATION_UID
    return meta


def _listed(value: Any) -> list[Any]:
    if value is None or value == "":
        return []
    return [value] if isinstance(value, str) or not hasattr(value, "__iter__") else list(value)

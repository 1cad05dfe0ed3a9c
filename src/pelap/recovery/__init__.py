"""A short training after pruning that wins quality back. Read loop.py first."""

from pelap.recovery.loop import Pupil, begin, recover
from pelap.recovery.quality import Quality, measure_quality
from pelap.recovery.settings import PARTS, Parts, RecoverySettings
from pelap.recovery.student import Student, Teacher, find_encode, make_student, make_teacher
from pelap.recovery.taps import find_taps

__all__ = [
    "PARTS",
    "Parts",
    "Pupil",
    "Quality",
    "RecoverySettings",
    "Student",
    "Teacher",
    "begin",
    "find_encode",
    "find_taps",
    "make_student",
    "make_teacher",
    "measure_quality",
    "recover",
]

"""Measuring the choices that only a machine can make, and keeping what was found.

choices     the choices: candidates, and where they apply
calls       the calls that decide them
finding     what is found of one of them
contest     one of them: first compared with the reference, then timed
race        timing side by side, and the rule by which a candidate replaces the default
session     one contest after the other, recorded one by one
record      the file in the user's cache
report      the table

python -m unmask_kernels.tune          tune this machine for BERT-base, without the engine
"""

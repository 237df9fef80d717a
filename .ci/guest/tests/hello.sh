#!/bin/sh
# guest: lean
# The kernel boots, and the project's programs run on it.
set -eu
uname -r
hello

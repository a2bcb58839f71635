// SPDX-License-Identifier: GPL-2.0-or-later
/* The programs of trouble.c, written for the final revision. */
#define FINAL 1
#include "trouble.c"

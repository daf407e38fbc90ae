# The demo. Included by the top Makefile, which sets ROOT, RELEASE, PY and the flags for C and Go.

BOOKINFO := $(ROOT)/examples/bookinfo
BOOKINFO_BUILT := $(ROOT)/build/bookinfo
BOOKINFO_RUN := $(PY) $(BOOKINFO)/runner --release $(RELEASE) --built $(BOOKINFO_BUILT)

.PHONY: bookinfo bookinfo-full bookinfo-short bookinfo-programs

# About a minute at 100 pages a second.
bookinfo: bookinfo-programs
	$(BOOKINFO_RUN) --rps 100 --seconds 60 $(BOOKINFO_ARGS)

# 24 000 pages.
bookinfo-full: bookinfo-programs
	$(BOOKINFO_RUN) --rps 200 --seconds 120 $(BOOKINFO_ARGS)

# Its certificates live twice as long: machines that test do other things, too.
bookinfo-short: bookinfo-programs
	$(BOOKINFO_RUN) --rps 50 --seconds 20 --ttl 8 $(BOOKINFO_ARGS)

bookinfo-programs: build python-module
	@mkdir -p $(BOOKINFO_BUILT)
	$(CC) -std=c11 -O2 -Wall -Wextra -Werror -I$(ROOT)/bindings/c/include -pthread \
	  $(BOOKINFO)/details/details.c -o $(BOOKINFO_BUILT)/details -L$(RELEASE) -lmesh
	cd $(BOOKINFO)/ratings && go build -o $(BOOKINFO_BUILT)/ratings .

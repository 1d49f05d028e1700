# millrace: `make help` lists what there is to do.
#
# One folder, one executable; base/ and shm/ are shared by all. Variants build into folders of their own
# (make BUILD=build-asan VARIANT=asan), so they never mix.

BUILD   ?= build
VARIANT ?= release
CC      ?= gcc
JOBS    ?= $(shell nproc)

WARN   := -Wall -Wextra -Wconversion -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wformat=2 -Wvla \
          -Wimplicit-fallthrough -Wno-sign-conversion -Werror=implicit -Werror=incompatible-pointer-types \
          -Werror=int-conversion
HARDEN := -fstack-protector-strong -fstack-clash-protection -fcf-protection=full -fPIE \
          -fno-delete-null-pointer-checks -fno-strict-overflow
LINK   := -pie -Wl,-z,relro,-z,now,-z,noexecstack -Wl,--as-needed
ifndef VERSION
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
endif

ifeq ($(VARIANT),release)
OPT := -O2 -g -D_FORTIFY_SOURCE=3
else ifeq ($(VARIANT),fault)
OPT := -O2 -g -D_FORTIFY_SOURCE=3 -DMILLRACE_FAULT
else ifeq ($(VARIANT),asan)
OPT := -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer -DMILLRACE_FAULT
else ifeq ($(VARIANT),tsan)
OPT := -O1 -g -fsanitize=thread -fno-omit-frame-pointer
else ifeq ($(VARIANT),fuzz)
OPT := -O1 -g -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer \
       -w # gcc warns, which builds the rest
else ifeq ($(VARIANT),coverage)
OPT := -O1 -g --coverage -fprofile-update=atomic -DMILLRACE_COVERAGE
else
$(error VARIANT is one of release, fault, asan, tsan, coverage, fuzz)
endif
ifdef CI
ifneq ($(filter release fault fuzz,$(VARIANT)),)
OPT += -Werror# with the sanitizers gcc warns of what is not so
endif
endif

CFLAGS   += -std=gnu17 $(OPT) $(WARN) $(HARDEN) -ffunction-sections -fdata-sections
CPPFLAGS += -I. -I$(BUILD) -D_GNU_SOURCE -MMD -MP
ifeq ($(VARIANT),tsan)
CPPFLAGS += -Itests/plain# what stands in for Criterion there
endif
LDFLAGS  += $(LINK)
PRODUCT  := -Wl,--gc-sections# not for tests: Criterion finds them in a section that nothing refers to
ifneq ($(filter asan tsan coverage,$(VARIANT)),)
INSTRUMENT := $(BUILD)/obj/tests/instrument.o
LDFLAGS    += -Wl,--wrap=execve,--wrap=_Exit,--wrap=_exit,--wrap=abort
endif

LIBS_supervisor := -lyaml
LIBS_ingest     := -lrdkafka
LIBS_transform  := -lyajl -llz4 -lcrypto
LIBS_sink       := -lhiredis -lssl -lcrypto
LIBS_tools      := -lrdkafka -lhiredis -lyajl -lssl -llz4 -lsqlite3 -lcrypto -lyaml -lncurses -ltinfo -lm
LIBS_audit      := -lcrypto
LIBS_recon      := -lrdkafka -lyajl -lsqlite3 -lcurl -llz4 -lcrypto
LIBS_demo       := -lrdkafka -lhiredis -llz4 -lcrypto
LIBS_ALL        := -lrdkafka -lhiredis -lyajl -lssl -llz4 -lsqlite3 -lcurl -lcrypto -lyaml -lncurses -ltinfo -lm

FOLDERS  := base shm kafka supervisor ingest transform sink audit recon feed tools
PROGRAMS := millrace millrace-supervisor millrace-ingest millrace-transform millrace-sink millrace-audit millrace-recon \
            millrace-demo
BIN      := $(PROGRAMS:%=$(BUILD)/%)

.DEFAULT_GOAL := all
.PHONY: all
all: $(BIN) ## build every program into build/ (the default)

# One line a file; `make V=1` shows whole commands.
ifeq ($(V),1)
say =
else
say = @echo "  $(1) $(patsubst $(BUILD)/%,%,$@)"; 
endif

# -- archives, one per folder, without its main.c ----------------------------------------------------------------------
define archive
SRC_$(1) := $$(filter-out $(1)/main.c,$$(wildcard $(1)/*.c))
OBJ_$(1) := $$(SRC_$(1):%.c=$(BUILD)/obj/%.o)
$(BUILD)/lib$(1).a: $$(OBJ_$(1))
	@rm -f $$@ && $(AR) rcs $$@ $$^
endef
$(foreach f,$(FOLDERS),$(eval $(call archive,$(f))))

$(BUILD)/obj/%.o: %.c
	@mkdir -p $(@D)
	$(call say,CC)$(CC) $(CPPFLAGS) $(CFLAGS) -c $< -o $@

# Written anew only when the version is another one, and then what shows it is built again.
$(BUILD)/version.h: FORCE
	@mkdir -p $(@D)
	@echo '#define MILLRACE_VERSION "$(VERSION)"' | cmp -s - $@ || echo '#define MILLRACE_VERSION "$(VERSION)"' >$@
$(BUILD)/obj/shm/stats.o $(BUILD)/obj/tools/main.o: $(BUILD)/version.h
.PHONY: FORCE

COMMON := $(BUILD)/libkafka.a $(BUILD)/libshm.a $(BUILD)/libbase.a $(INSTRUMENT)

$(BUILD)/millrace: $(BUILD)/obj/tools/main.o $(BUILD)/libtools.a $(BUILD)/libfeed.a $(BUILD)/librecon.a \
                   $(BUILD)/libaudit.a $(BUILD)/libsink.a $(BUILD)/libtransform.a $(COMMON)
	$(call say,LD)$(CC) $(CFLAGS) $(LDFLAGS) $(PRODUCT) $^ $(LIBS_tools) -o $@
$(BUILD)/millrace-supervisor: $(BUILD)/obj/supervisor/main.o $(BUILD)/libsupervisor.a $(COMMON)
	$(call say,LD)$(CC) $(CFLAGS) $(LDFLAGS) $(PRODUCT) $^ $(LIBS_supervisor) -o $@
$(BUILD)/millrace-ingest: $(BUILD)/obj/ingest/main.o $(BUILD)/libingest.a $(COMMON)
	$(call say,LD)$(CC) $(CFLAGS) $(LDFLAGS) $(PRODUCT) $^ $(LIBS_ingest) -o $@
$(BUILD)/millrace-transform: $(BUILD)/obj/transform/main.o $(BUILD)/libtransform.a $(COMMON)
	$(call say,LD)$(CC) $(CFLAGS) $(LDFLAGS) $(PRODUCT) $^ $(LIBS_transform) -o $@
$(BUILD)/millrace-sink: $(BUILD)/obj/sink/main.o $(BUILD)/libsink.a $(COMMON)
	$(call say,LD)$(CC) $(CFLAGS) $(LDFLAGS) $(PRODUCT) $^ $(LIBS_sink) -o $@
$(BUILD)/millrace-audit: $(BUILD)/obj/audit/main.o $(BUILD)/libaudit.a $(COMMON)
	$(call say,LD)$(CC) $(CFLAGS) $(LDFLAGS) $(PRODUCT) $^ $(LIBS_audit) -o $@
$(BUILD)/millrace-recon: $(BUILD)/obj/recon/main.o $(BUILD)/librecon.a $(BUILD)/libaudit.a $(COMMON)
	$(call say,LD)$(CC) $(CFLAGS) $(LDFLAGS) $(PRODUCT) $^ $(LIBS_recon) -o $@
$(BUILD)/millrace-demo: $(wildcard tools/demo/*.c) $(BUILD)/libtransform.a $(COMMON)
	$(call say,LD)$(CC) $(CPPFLAGS) $(CFLAGS) $(LDFLAGS) $(PRODUCT) $(filter %.c,$^) $(filter %.a %.o,$^) $(LIBS_demo) -o $@

# -- unit tests: one program per file, tests/unit/FOLDER/x.c beside FOLDER/x.c -----------------------------------------
UNIT_SRC := $(wildcard tests/unit/*/*.c)
UNIT_BIN := $(UNIT_SRC:%.c=$(BUILD)/%)
$(BUILD)/tests/unit/%: tests/unit/%.c $(BUILD)/libtools.a $(BUILD)/libsupervisor.a $(BUILD)/libingest.a \
                       $(BUILD)/libsink.a $(BUILD)/libfeed.a $(BUILD)/libtransform.a $(BUILD)/librecon.a \
                       $(BUILD)/libaudit.a $(COMMON)
	@mkdir -p $(@D)
	$(call say,LD)$(CC) $(CPPFLAGS) $(CFLAGS) $(LDFLAGS) $< $(filter %.a %.o,$^) $(LIBS_ALL) -lcriterion -o $@

# -- fuzzing: a program per file of tests/fuzz/, with the folders it needs; built by clang, VARIANT=fuzz ---------------
FUZZ_ring_attach    := libshm.a
FUZZ_ring_peek      := libshm.a
FUZZ_record_open    := libshm.a
FUZZ_json_record    := obj/transform/json.o libshm.a
FUZZ_resp_replies   := obj/sink/resp.o
FUZZ_refeed_request :=
FUZZ_config_text    :=
FUZZ_manifest_text  := librecon.a libaudit.a libshm.a
FUZZ_audit_segment  := libaudit.a libshm.a
FUZZ_BIN := $(patsubst tests/fuzz/%.c,$(BUILD)/fuzz/%,$(wildcard tests/fuzz/*.c))
define fuzz_target
$(BUILD)/fuzz/$(1): tests/fuzz/$(1).c $(FUZZ_$(1):%=$(BUILD)/%) $(BUILD)/libbase.a
	@mkdir -p $$(@D)
	$$(call say,LD)$$(CC) $$(CPPFLAGS) $$(CFLAGS) -fsanitize=fuzzer $$(LDFLAGS) $$^ $$(LIBS_ALL) -o $$@
endef
$(foreach t,$(FUZZ_BIN:$(BUILD)/fuzz/%=%),$(eval $(call fuzz_target,$(t))))

.PHONY: fuzz fuzz-corpus fuzz-build
fuzz-build:
	@$(MAKE) --no-print-directory BUILD=build-fuzz VARIANT=fuzz CC=clang fuzz-programs
.PHONY: fuzz-programs
fuzz-programs: $(FUZZ_BIN)

fuzz: deps ## fuzz what reads other people's bytes, SEED= TIMES= RUNS= (make fuzz-corpus: what was found before)
	@$(MAKE) --no-print-directory fuzz-build
	@tests/run-fuzz

fuzz-corpus: deps
	@$(MAKE) --no-print-directory fuzz-build
	@tests/run-fuzz corpus

# -- the simulator: the product's sources built once more, with its hooks, against a simulated world (tests/sim) ---------
SIM        := $(BUILD)/tests/sim
SIM_LEFT   := %/main.c base/clock.c base/log.c ingest/kafka_client.c ingest/kafka_witness.c supervisor/spawn.c
SIM_SRC    := $(filter-out $(SIM_LEFT),$(foreach f,base shm kafka ingest transform sink audit supervisor,$(SRC_$(f))))
SIM_OBJ    := $(SIM_SRC:%.c=$(SIM)/obj/%.o)
SIM_KERNEL := shm/ring shm/worker supervisor/plumbing supervisor/child
$(SIM_KERNEL:%=$(SIM)/obj/%.o): SIM_HOOKS := -DSIM_KERNEL
$(SIM)/obj/shm/stats.o: SIM_HOOKS := -DSIM_QUIET
$(SIM)/obj/shm/stats.o: $(BUILD)/version.h
$(SIM)/obj/%.o: %.c tests/sim/hooks.h
	@mkdir -p $(@D)
	$(call say,CC)$(CC) $(CPPFLAGS) $(CFLAGS) $(SIM_HOOKS) -include tests/sim/hooks.h -c $< -o $@
# Jumps between stacks are what a fortified longjmp is there to refuse.
$(SIM)/world/%.o: tests/sim/%.c
	@mkdir -p $(@D)
	$(call say,CC)$(CC) $(CPPFLAGS) $(CFLAGS) -U_FORTIFY_SOURCE -c $< -o $@
$(SIM)/libsim.a: $(SIM_OBJ)
	@rm -f $@ && $(AR) rcs $@ $^
$(SIM)/sim: $(patsubst tests/sim/%.c,$(SIM)/world/%.o,$(wildcard tests/sim/*.c)) $(SIM)/libsim.a
	$(call say,LD)$(CC) $(CFLAGS) $(LDFLAGS) $(PRODUCT) $^ $(filter-out -lrdkafka -lcurl -lncurses -ltinfo -lsqlite3 -lssl,$(LIBS_ALL)) -o $@

.PHONY: sim
sim: $(SIM)/sim ## the whole instance in one process against a simulated world: 2,000 seeds (SEED= TIMES=)
	@tests/run-sim $(SIM)/sim

.PHONY: sim-bugs
sim-bugs: $(SIM)/sim ## put each mistake of tests/sim/bugs into the product: the simulator has to find it (SEED= TIMES=)
	@tests/run-sim-bugs $(SIM)/sim $(SIM) $(CC) $(CPPFLAGS) $(CFLAGS)

.PHONY: model
model: deps ## check the ring's protocol in every state it can come to (TIMES=2: larger ones)
	@tests/run-model

# -- the benchmark: a program per file of tests/bench/ but bench.c, which they share -----------------------------------
BENCH     ?= full
BENCH_SRC := $(filter-out tests/bench/bench.c,$(wildcard tests/bench/*.c))
BENCH_BIN := $(BENCH_SRC:tests/bench/%.c=$(BUILD)/bench-%)
.SECONDARY: $(BENCH_SRC:%.c=$(BUILD)/obj/%.o) $(BUILD)/obj/tests/bench/bench.o
$(BUILD)/bench-%: $(BUILD)/obj/tests/bench/%.o $(BUILD)/obj/tests/bench/bench.o $(BUILD)/librecon.a $(BUILD)/libaudit.a \
                  $(COMMON)
	$(call say,LD)$(CC) $(CFLAGS) $(LDFLAGS) $(PRODUCT) $^ -lrdkafka -lhiredis -lcrypto -o $@

.PHONY: bench bench-soak bench-verify
bench: deps ## measure against real servers, write docs/performance.md (BENCH=quick: two minutes, writes nothing)
	@$(MAKE) --no-print-directory all $(BENCH_BIN)
	@tests/bench/run $(BENCH)

bench-soak: deps ## MINUTES=10 at full speed: flat memory; restart times against the backlog
	@$(MAKE) --no-print-directory all $(BENCH_BIN)
	@tests/bench/run soak $(MINUTES)

bench-verify: deps ## how fast `millrace verify` is, its memory, and what other clients of Redis notice
	@$(MAKE) --no-print-directory all $(BENCH_BIN)
	@tests/bench/run verify

.PHONY: unit pipeline check docs
unit: $(UNIT_BIN) ## run the unit tests
	@tests/run-unit $(UNIT_BIN)

pipeline: all $(BENCH_BIN) ## run the tests on a real Kafka broker and real Redis servers
	@tests/run-pipeline

.PHONY: proof
proof: all ## 1,000 injected faults, all to be found; 1,000,000 records (RECORDS=), nothing to be found
	@RECORDS=$(or $(RECORDS),1000000) tests/run-pipeline tests/pipeline/test_injected_faults.py

# -- sanitizers --------------------------------------------------------------------------------------------------------
# ThreadSanitizer over what has threads of its own; the processes among themselves it cannot see.
THREADED := audit/anchor audit/audit base/log base/thread feed/feed feed/kafka_out ingest/kafka_client \
            ingest/kafka_witness recon/run recon/webhook shm/place shm/ring_file shm/ring_race shm/stats shm/twin
ASAN_UNIT := $(UNIT_SRC:%.c=build-asan/%)
TSAN_UNIT := $(THREADED:%=build-tsan/tests/unit/%)
VALGRIND  := valgrind -q --trace-children=yes --log-file=REPORT.%p --leak-check=full --show-leak-kinds=definite \
             --suppressions=tests/valgrind.supp
.PHONY: asan tsan asan-pipeline asan-faults tsan-pipeline valgrind coverage soak
asan: ## run the unit tests under AddressSanitizer, with its leak checker, and UBSan
	@$(MAKE) --no-print-directory -j$(JOBS) BUILD=build-asan VARIANT=asan $(ASAN_UNIT)
	@NAME="unit tests, address" tests/run-unit $(ASAN_UNIT)

asan-pipeline: ## run some pipeline tests with every process under AddressSanitizer and UBSan (TESTS=all: all)
	@$(MAKE) --no-print-directory -j$(JOBS) BUILD=build-asan VARIANT=asan all
	@NAME="pipeline, address" MILLRACE_BUILD=build-asan tests/run-pipeline $(if $(filter all,$(TESTS)),-k "not test_released_build",-m sanitized)

asan-faults: ## a sample of the fault points with every process under AddressSanitizer and UBSan (SEED= TIMES=)
	@$(MAKE) --no-print-directory -j$(JOBS) BUILD=build-asan VARIANT=asan all
	@NAME="fault points, address" MILLRACE_BUILD=build-asan TIMES=$(or $(TIMES),0.1) \
	    tests/run-pipeline tests/pipeline/test_fault_points.py

tsan: ## run the unit tests of what has threads under ThreadSanitizer
	@$(MAKE) --no-print-directory -j$(JOBS) BUILD=build-tsan VARIANT=tsan $(TSAN_UNIT)
	@NAME="unit tests, threads" tests/run-unit $(TSAN_UNIT)

tsan-pipeline: ## run some pipeline tests with every process under ThreadSanitizer
	@$(MAKE) --no-print-directory -j$(JOBS) BUILD=build-tsan VARIANT=tsan all
	@NAME="pipeline, threads" MILLRACE_BUILD=build-tsan tests/run-pipeline -m sanitized

valgrind: $(UNIT_BIN) ## run the unit tests under Valgrind
	@NAME="unit tests, valgrind" UNDER="$(VALGRIND)" tests/run-unit $(UNIT_BIN)

COVERED := shm supervisor
COVERAGE_UNIT := $(foreach f,$(COVERED),$(patsubst %.c,build-coverage/%,$(wildcard tests/unit/$(f)/*.c))) \
                 build-coverage/tests/unit/tools/stats
coverage: ## lines of shm/ and supervisor/ that their unit tests run, at least 90 % (TESTS=pipeline: all folders, all tests)
	@$(MAKE) --no-print-directory -j$(JOBS) BUILD=build-coverage VARIANT=coverage \
	    $(if $(filter pipeline,$(TESTS)),all $(UNIT_SRC:%.c=build-coverage/%),$(COVERAGE_UNIT)) \
	    build-coverage/obj/supervisor/main.o
	@tests/run-coverage $(if $(filter pipeline,$(TESTS)),$(UNIT_SRC:%.c=build-coverage/%),$(COVERAGE_UNIT))

soak: deps ## everything random again and again with other seeds, SEED= HOURS= (ROWS=)
	@tests/run-soak

# As they are released run the unit tests of shm/, of which some are for speed, or for what sanitizers take away, and
# ingest's many deaths; all run under AddressSanitizer. `make unit` has all of them as released.
CHECK_UNIT := $(patsubst %.c,$(BUILD)/%,$(wildcard tests/unit/shm/*.c)) $(BUILD)/tests/unit/ingest/death
check: deps ## install what is needed, build, run every test, end with a line of counts
	@$(MAKE) --no-print-directory -j$(JOBS) all $(CHECK_UNIT) $(BENCH_BIN)
	@$(MAKE) --no-print-directory -j$(JOBS) BUILD=build-fault VARIANT=fault all
	@$(MAKE) --no-print-directory -j$(JOBS) BUILD=build-asan VARIANT=asan all $(ASAN_UNIT)
	@$(MAKE) --no-print-directory -j$(JOBS) BUILD=build-tsan VARIANT=tsan $(TSAN_UNIT)
	@$(MAKE) --no-print-directory -j$(JOBS) fuzz-build
	@tests/run-check $(CHECK_UNIT)

docs: $(BUILD)/millrace ## write the generated pages of docs/ anew
	$(BUILD)/millrace check --reference > docs/configuration.md
	$(BUILD)/millrace stats --format markdown > docs/metrics.md

# -- installation ------------------------------------------------------------------------------------------------------
# `millrace` finds the other programs in ../libexec/millrace. Pages and examples keep their places, so that links hold.
PREFIX  ?= /usr/local
DESTDIR ?=
BINDIR  := $(PREFIX)/bin
LIBEXEC := $(PREFIX)/libexec/millrace
DOCDIR  := $(PREFIX)/share/doc/millrace
UNIT    := $(PREFIX)/lib/systemd/system/millrace@.service
SYSTEM  := sysusers.d/millrace.conf tmpfiles.d/millrace.conf
PAGES   := README.md CHANGELOG.md LICENSE $(wildcard docs/*.md docs/decisions/*.md deploy/examples/* deploy/prometheus/* tools/readers/*.py)

.PHONY: install uninstall
install: all ## install programs, unit, examples and pages below $(DESTDIR)$(PREFIX), by default /usr/local
	install -D -m 755 $(BUILD)/millrace $(DESTDIR)$(BINDIR)/millrace
	install -d $(DESTDIR)$(LIBEXEC) $(dir $(DESTDIR)$(UNIT))
	install -m 755 $(filter-out $(BUILD)/millrace,$(BIN)) $(DESTDIR)$(LIBEXEC)
	sed 's,@BINDIR@,$(BINDIR),;s,@DOCDIR@,$(DOCDIR),' deploy/millrace@.service >$(DESTDIR)$(UNIT)
	chmod 644 $(DESTDIR)$(UNIT)
	for f in $(SYSTEM); do install -D -m 644 deploy/$$f $(DESTDIR)$(PREFIX)/lib/$$f || exit; done
	for f in $(PAGES); do install -D -m 644 $$f $(DESTDIR)$(DOCDIR)/$$f || exit; done

uninstall: ## remove what install has put there; configurations, data and the user stay
	rm -f $(DESTDIR)$(BINDIR)/millrace $(DESTDIR)$(UNIT) $(SYSTEM:%=$(DESTDIR)$(PREFIX)/lib/%)
	rm -rf $(DESTDIR)$(LIBEXEC) $(DESTDIR)$(DOCDIR)

# -- packages of Debian 12 ---------------------------------------------------------------------------------------------
BUILD_PACKAGES := gcc make pkg-config libc6-dev librdkafka-dev libhiredis-dev liblz4-dev libssl-dev libyaml-dev \
                  libyajl-dev libncurses-dev libxxhash-dev libsqlite3-dev libcurl4-openssl-dev redis-server
TEST_PACKAGES  := libcriterion-dev default-jre-headless maven python3 python3-pytest python3-confluent-kafka \
                  python3-redis python3-lz4 xxhash python3-cryptography python3-yaml redis-tools \
                  systemd tmux clang spin valgrind gcovr

.PHONY: deps deps-build demo
deps: ## install the packages for building and testing (apt-get, with sudo when not root)
	@tools/install-packages $(BUILD_PACKAGES) $(TEST_PACKAGES)

deps-build: # what `make demo` needs
	@tools/install-packages $(BUILD_PACKAGES)

demo: deps-build ## show it: 20,000 records through the pipeline, a worker killed half-way, every value compared
	@$(MAKE) --no-print-directory -s all
	@$(BUILD)/millrace-demo

.PHONY: clean
clean: ## remove what was built
	rm -rf build build-*

.PHONY: help
help: ## list the targets
	@awk -F':.*## ' '/^[a-z][a-z-]*:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo; echo "  CC=$(CC)  VARIANT=$(VARIANT) (release fault asan tsan coverage fuzz)  BUILD=$(BUILD)"

-include $(shell find $(BUILD)/obj $(BUILD)/tests -name '*.d' 2>/dev/null)

# A thin front for Meson: `make`, `make demo`, `make check`, … do all the set-up themselves on Debian 12.
BUILD := build
SANITIZE := build-sanitize

all: $(BUILD)/build.ninja
	@ninja -C $(BUILD) --quiet

$(BUILD)/build.ninja:
	@tools/setup build
	@meson setup $(BUILD) >$(BUILD).log || { cat $(BUILD).log; exit 1; }
	@rm $(BUILD).log

demo: all
	@tools/setup demo
	@tools/demo $(BUILD)/reseat

check: all foc
	@tools/setup check
	@tests/run --build $(BUILD) $(TESTS)

# The same under another kernel, in QEMU: `make check-kernel KERNEL=linux-image-6.1.0-55-amd64 TESTS=memory/`.
KERNEL := linux-image-amd64
check-kernel: all
	@tests/kernels/run $(KERNEL) tests/run --build $(BUILD) --patience 20 $(TESTS)

bench: all
	@tools/setup bench
	@bench/run --build $(BUILD)

lint: all
	@tools/setup lint
	@tools/lint $(BUILD)

# The same with AddressSanitizer and UndefinedBehaviorSanitizer in everything of ours.
sanitize:
	@tools/setup build
	@tools/setup check
	@test -f $(SANITIZE)/build.ninja || meson setup $(SANITIZE) -Db_sanitize=address,undefined -Db_lundef=false \
		-Doptimization=1 >/dev/null
	@ninja -C $(SANITIZE) --quiet
	@tests/run --build $(SANITIZE) $(TESTS)

# The part for Fiasco.OC (docs/foc.md): built with the ordinary compiler, run on a kernel that is yours.
foc:
	@tools/setup build
	@$(MAKE) --no-print-directory --silent -C foc BUILD=../$(BUILD)/foc

foc-run: foc
	@foc/run $(BUILD)/foc "$(FIASCO)"

install: all
	@meson install -C $(BUILD) --no-rebuild
	@test -n "$(DESTDIR)" || ldconfig 2>/dev/null || true # only root can

clean:
	@rm -rf $(BUILD) $(SANITIZE)

.PHONY: all demo check check-kernel bench lint sanitize foc foc-run install clean

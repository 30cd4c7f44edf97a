# A thin front for Meson: `make`, `make demo`, `make check`, … do all the set-up themselves.
BUILD := build

all: $(BUILD)/build.ninja
	@ninja -C $(BUILD)

$(BUILD)/build.ninja:
	@tools/setup build
	@meson setup $(BUILD) >/dev/null

.PHONY: all

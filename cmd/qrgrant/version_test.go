package main_test

import (
	"runtime"
	"runtime/debug"
	"testing"

	qrgrant "github.com/qrgrant/qrgrant/cmd/qrgrant"
)

func TestVersionLine(t *testing.T) {
	t.Parallel()
	vcs := []debug.BuildSetting{{Key: "vcs.revision", Value: "0123456789abcdef"}, {Key: "vcs.modified", Value: "true"}}
	for name, row := range map[string]struct {
		info *debug.BuildInfo
		want string
	}{
		"nothing known":      {nil, "qrgrant without a version"},
		"a development tree": {&debug.BuildInfo{Main: debug.Module{Version: "(devel)"}, Settings: vcs}, "qrgrant without a version, revision 0123456789ab with changes"},
		"a clean tree":       {&debug.BuildInfo{Settings: vcs[:1]}, "qrgrant without a version, revision 0123456789ab"},
		"a released module":  {&debug.BuildInfo{Main: debug.Module{Version: "v1.2.3"}}, "qrgrant v1.2.3"},
	} {
		if got := qrgrant.VersionLine(row.info); got != row.want+", "+runtime.Version() {
			t.Errorf("%s: %q", name, got)
		}
	}
}

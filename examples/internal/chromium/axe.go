package chromium

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
)

// violation is what axe-core finds against a rule.
type violation struct {
	ID, Help string
	Nodes    []struct {
		HTML   string
		Target []any
	}
}

// Axe checks the accessibility of the page as it is now with axe-core, in a subtest, and fails
// it for every violation. Without QRGRANT_AXE the subtest is skipped, and fails where CI is set.
// A page that runs no scripts runs axe's all the same, and none of its own before or after. Rules whose
// ids are in except do not count.
func Axe(t *testing.T, p *Page, except ...string) {
	t.Helper()
	t.Run("axe", func(t *testing.T) {
		path := os.Getenv("QRGRANT_AXE")
		switch {
		case path == "" && os.Getenv("CI") != "":
			t.Fatal("chromium: QRGRANT_AXE is not set: it names axe.min.js of the npm package axe-core")
		case path == "":
			t.Skip("chromium: QRGRANT_AXE is not set: it names axe.min.js of the npm package axe-core")
		}
		script, err := os.ReadFile(path) //nolint:gosec // G304, G703: the file that whoever runs the tests names
		if err != nil {
			t.Fatal(err)
		}
		if p.noScript {
			p.allowScripts(t, true)
			defer p.allowScripts(t, false)
		}
		// Evaluated, not loaded: no policy of the page has to be opened for it.
		if _, err := evaluate[bool](p, string(script)+";true"); err != nil {
			t.Fatal(err)
		}
		found, err := evaluate[[]violation](p, `axe.run(document, { resultTypes: ['violations'] }).then(r => r.violations)`)
		if err != nil {
			t.Fatal(err)
		}
		at, _ := evaluate[string](p, "location.pathname")
		for _, v := range found {
			if slices.Contains(except, v.ID) {
				continue
			}
			for _, node := range v.Nodes {
				t.Errorf("%s: %s: %v: %s\n%s", at, v.ID, node.Target, v.Help, strings.TrimSpace(node.HTML))
			}
		}
	})
}

func (p *Page) allowScripts(t *testing.T, allow bool) {
	t.Helper()
	if _, err := chromedp.Call(p.ctx, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: !allow}); err != nil {
		t.Error(err)
	}
}

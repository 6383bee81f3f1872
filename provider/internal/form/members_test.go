package form_test

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/qrgrant/qrgrant/provider/internal/form"
)

func TestMembers(t *testing.T) {
	t.Parallel()
	got, err := form.Members([]byte(` {"a":"1","b":"","c":"\u00fc"} `))
	if diff := cmp.Diff(map[string][]string{"a": {"1"}, "c": {"ü"}}, map[string][]string(got)); err != nil || diff != "" {
		t.Errorf("%v %s", err, diff)
	}
	for name, body := range map[string]string{
		"nothing": "", "an array": `["a"]`, "a member twice": `{"a":"1","a":"1"}`, "twice by an escape": `{"a":"1","\u0061":"1"}`,
		"a number": `{"a":1}`, "null": `{"a":null}`, "NUL": `{"a":"\u0000"}`, "NUL in a name": `{"\u0000":"a"}`, "more behind": `{} {}`, "cut off": `{"a":"1"`,
	} {
		if got, err := form.Members([]byte(body)); err == nil {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// The first frame of a WebSocket is what a stranger sends: whatever is taken, encoding/json
// reads the same from it.
func FuzzMembers(f *testing.F) {
	for _, seed := range []string{`{"client_id":"cli","device_code":"x"}`, `{"a":"1","a":"2"}`, `[{}]`, `{"a":{"a":"b"}}`, `{"a":"\ud800"}`, "{\"a\":\"\xff\"}", `{}{}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		values, err := form.Members(body)
		if err != nil {
			return
		}
		var want map[string]string
		if err := json.Unmarshal(body, &want); err != nil {
			t.Fatalf("taken, but encoding/json says %v", err)
		}
		for name, value := range want {
			if value == "" {
				delete(want, name)
				continue
			}
			if values.Get(name) != value || len(values[name]) != 1 {
				t.Errorf("%q is %q, want %q", name, values[name], value)
			}
		}
		if len(values) != len(want) {
			t.Errorf("%v, want %v", values, want)
		}
		for name := range values {
			if !form.Clean(name) || !form.Clean(values.Get(name)) {
				t.Errorf("%q is not clean", name)
			}
		}
	})
}

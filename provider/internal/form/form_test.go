package form_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/qrgrant/qrgrant/provider/internal/form"
)

func request(t *testing.T, media, body string) (*httptest.ResponseRecorder, *http.Request) {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/?client_id=query", strings.NewReader(body))
	r.Header.Set("Content-Type", media)
	return httptest.NewRecorder(), r
}

func TestRead(t *testing.T) {
	t.Parallel()
	const media = "application/x-www-form-urlencoded"
	for _, row := range []struct {
		name, media, body string
		want              int
	}{
		{"a form", media + "; charset=utf-8", "a=1&b=2", 0},
		{"a repeated parameter", media, "a=1&a=1", http.StatusBadRequest},
		{"a repeated resource", media, "resource=a&resource=b", 0},
		{"NUL", media, "a=%00", http.StatusBadRequest},
		{"a raw NUL", media, "a=\x00", http.StatusBadRequest},
		{"invalid UTF-8", media, "a=%ff", http.StatusBadRequest},
		{"invalid UTF-8 in a name", media, "%ff=a", http.StatusBadRequest},
		{"a broken escape", media, "a=%zz", http.StatusBadRequest},
		{"another content type", "application/json", `{"a":"1"}`, http.StatusBadRequest},
		{"multipart", "multipart/form-data; boundary=x", "--x--", http.StatusBadRequest},
		{"the largest body", media, "a=" + strings.Repeat("x", form.MaxBody-2), 0},
		{"one byte more", media, "a=" + strings.Repeat("x", form.MaxBody-1), http.StatusRequestEntityTooLarge},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			w, r := request(t, row.media, row.body)
			values, err := form.Read(w, r)
			var fault *form.Fault
			switch {
			case row.want == 0 && err != nil:
				t.Errorf("error = %v", err)
			case row.want != 0 && (!errors.As(err, &fault) || fault.Status != row.want):
				t.Errorf("error = %v, want status %d", err, row.want)
			}
			if values.Has("client_id") {
				t.Error("the query was read")
			}
		})
	}
}

func TestReadLeavesOutWhatIsEmpty(t *testing.T) {
	t.Parallel()
	w, r := request(t, "application/x-www-form-urlencoded", "scope=&client_id=tv&resource=&resource=https%3A%2F%2Fapi.example&resource=&audience=")
	values, err := form.Read(w, r)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string][]string{"client_id": {"tv"}, "resource": {"https://api.example"}}, map[string][]string(values)); diff != "" {
		t.Error(diff)
	}
}

func TestReadObject(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name, media, body string
		want              int
	}{
		{"an object", "application/json", `{"a":"1","unknown":[1,{"a":2}]}`, 0},
		{"a member twice", "application/json", `{"a":"1","a":"2"}`, http.StatusBadRequest},
		{"an unknown member twice", "application/json", `{"x":"1","x":"2"}`, http.StatusBadRequest},
		{"a number", "application/json", `{"a":1}`, http.StatusBadRequest},
		{"null", "application/json", `{"a":null}`, http.StatusBadRequest},
		{"an escaped NUL", "application/json", `{"a":"\u0000"}`, http.StatusBadRequest},
		{"invalid UTF-8", "application/json", "{\"a\":\"\xff\"}", http.StatusBadRequest},
		{"an array", "application/json", `["a"]`, http.StatusBadRequest},
		{"nothing", "application/json", "", http.StatusBadRequest},
		{"cut short", "application/json", `{"a":"1"`, http.StatusBadRequest},
		{"two objects", "application/json", `{"a":"1"}{}`, http.StatusBadRequest},
		{"a form", "application/x-www-form-urlencoded", "a=1", http.StatusUnsupportedMediaType},
		{"too large", "application/json", `{"a":"` + strings.Repeat("x", form.MaxBody) + `"}`, http.StatusRequestEntityTooLarge},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			w, r := request(t, row.media, row.body)
			got, err := form.ReadObject(w, r, "a")
			var fault *form.Fault
			switch {
			case row.want == 0:
				if diff := cmp.Diff(map[string]string{"a": "1"}, got); err != nil || diff != "" {
					t.Errorf("error = %v, %s", err, diff)
				}
			case !errors.As(err, &fault) || fault.Status != row.want:
				t.Errorf("error = %v, want status %d", err, row.want)
			}
		})
	}
}

func FuzzReadObject(f *testing.F) {
	f.Add(`{"payload":"x","entry":"scanner"}`)
	f.Add(`{"payload":"\ud800"}`)
	f.Fuzz(func(t *testing.T, body string) {
		w, r := request(t, "application/json", body)
		got, err := form.ReadObject(w, r, "payload", "entry")
		for _, text := range got {
			if err != nil || !form.Clean(text) {
				t.Errorf("%q gives %q, %v", body, got, err)
			}
		}
	})
}

func FuzzParse(f *testing.F) {
	f.Add("a=1&resource=x&resource=y")
	f.Fuzz(func(t *testing.T, raw string) {
		values, err := form.Parse(raw)
		for name, all := range values {
			if err != nil || name != "resource" && len(all) != 1 || !form.Clean(name+strings.Join(all, "")) {
				t.Errorf("%q gives %q, %v", raw, values, err)
			}
		}
	})
}

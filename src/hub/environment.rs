//! The environment variables of huggingface_hub.

use std::env::home_dir;
use std::path::PathBuf;

use super::layout::small_text;

const ENDPOINT: &str = "https://huggingface.co";
/// The folder of this crate among the assets that libraries keep.
const ASSETS: &str = "candle-gpt-input";
const MAX_TOKEN_BYTES: u64 = 1 << 16;

/// The variables, from the process or from a test.
pub(super) struct Environment<F>(F);

impl Environment<fn(&str) -> Option<String>> {
    pub(super) fn of_process() -> Self {
        Self(|name| std::env::var(name).ok())
    }
}

impl<F: Fn(&str) -> Option<String>> Environment<F> {
    /// Returns the text of the first variable that has one.
    fn text(&self, names: &[&str]) -> Option<String> {
        let text = |name: &&str| Some((self.0)(name)?.trim().to_string()).filter(|text| !text.is_empty());
        names.iter().find_map(text)
    }

    fn is_true(&self, names: &[&str]) -> bool {
        let text = self.text(names).unwrap_or_default().to_ascii_uppercase();
        ["1", "ON", "YES", "TRUE"].contains(&&text[..])
    }

    /// Returns a path, with `~` and `$NAME` replaced.
    fn path(&self, names: &[&str]) -> Option<PathBuf> {
        let text = self.expanded(&self.text(names)?);
        match text.strip_prefix('~').filter(|rest| rest.is_empty() || rest.starts_with(['/', '\\'])) {
            Some(rest) => Some(home_dir()?.join(rest.trim_start_matches(['/', '\\']))),
            None => Some(text.into()),
        }
    }

    /// Replaces `$NAME` and `${NAME}` by the variables of these names; unknown ones stay.
    fn expanded(&self, text: &str) -> String {
        let mut pieces = text.split('$');
        let mut expanded = pieces.next().unwrap_or_default().to_string();
        for piece in pieces {
            let (name, rest) = match piece.strip_prefix('{').and_then(|piece| piece.split_once('}')) {
                Some(braced) => braced,
                None => {
                    let is_end = |c: char| !c.is_ascii_alphanumeric() && c != '_';
                    piece.split_at(piece.find(is_end).unwrap_or(piece.len()))
                }
            };
            match (self.0)(name).filter(|_| !name.is_empty()) {
                Some(value) => expanded.extend([&value[..], rest]),
                None => expanded.extend(["$", piece]),
            }
        }
        expanded
    }

    fn home(&self) -> Option<PathBuf> {
        let caches = || self.path(&["XDG_CACHE_HOME"]).or_else(|| Some(home_dir()?.join(".cache")));
        self.path(&["HF_HOME"]).or_else(|| Some(caches()?.join("huggingface")))
    }

    pub(super) fn endpoint(&self) -> String {
        self.text(&["HF_ENDPOINT"]).unwrap_or_else(|| ENDPOINT.to_string())
    }

    pub(super) fn cache(&self) -> Option<PathBuf> {
        self.path(&["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"]).or_else(|| Some(self.home()?.join("hub")))
    }

    /// Returns the folder of ranges. It lies outside that of downloads, in which huggingface_hub knows every entry.
    pub(super) fn ranges(&self) -> Option<PathBuf> {
        let assets = self.path(&["HF_ASSETS_CACHE", "HUGGINGFACE_ASSETS_CACHE"]);
        Some(assets.or_else(|| Some(self.home()?.join("assets")))?.join(ASSETS).join("ranges"))
    }

    pub(super) fn token(&self) -> Option<String> {
        if self.is_true(&["HF_HUB_DISABLE_IMPLICIT_TOKEN"]) {
            return None;
        }
        self.text(&["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"]).or_else(|| {
            let path = self.path(&["HF_TOKEN_PATH"]).or_else(|| Some(self.home()?.join("token")))?;
            small_text(&path, MAX_TOKEN_BYTES).filter(|token| !token.is_empty())
        })
    }

    pub(super) fn is_offline(&self) -> bool {
        self.is_true(&["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
    }

    pub(super) fn has_links(&self) -> bool {
        !self.is_true(&["HF_HUB_DISABLE_SYMLINKS"])
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn environment<'a>(variables: &'a [(&str, &str)]) -> Environment<impl Fn(&str) -> Option<String> + 'a> {
        Environment(|name: &str| Some(variables.iter().find(|(known, _)| *known == name)?.1.to_string()))
    }

    #[test]
    fn folders_are_those_of_huggingface_hub() {
        let user = home_dir().unwrap();
        for (variables, cache) in [
            (&[][..], user.join(".cache/huggingface/hub")),
            (&[("XDG_CACHE_HOME", "/x")], "/x/huggingface/hub".into()),
            (&[("XDG_CACHE_HOME", "/x"), ("HF_HOME", "/h")], "/h/hub".into()),
            (&[("HF_HOME", "/h"), ("HUGGINGFACE_HUB_CACHE", "/old")], "/old".into()),
            (&[("HF_HUB_CACHE", "/c"), ("HF_HOME", "/h"), ("HUGGINGFACE_HUB_CACHE", "/old")], "/c".into()),
            (&[("HF_HUB_CACHE", " "), ("HF_HOME", "~/h")], user.join("h/hub")),
            (&[("HF_HUB_CACHE", "$A/${B}c/$D")], "$A/${B}c/$D".into()),
            (&[("HF_HUB_CACHE", "$A/${B}c/$D"), ("A", "/a"), ("B", "b")], "/a/bc/$D".into()),
        ] {
            assert_eq!(environment(variables).cache(), Some(cache), "{variables:?}");
        }
        assert_eq!(environment(&[("HF_HOME", "/h")]).ranges(), Some("/h/assets/candle-gpt-input/ranges".into()));
    }

    #[test]
    fn tokens_and_switches() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().to_str().unwrap();
        assert_eq!(environment(&[("HF_HOME", folder)]).token(), None);
        fs::write(home.path().join("token"), "of the file\n").unwrap();
        assert_eq!(environment(&[("HF_HOME", folder)]).token().as_deref(), Some("of the file"));
        let both = [("HF_HOME", folder), ("HUGGING_FACE_HUB_TOKEN", "old"), ("HF_TOKEN", " new\n")];
        assert_eq!(environment(&both).token().as_deref(), Some("new"));
        assert_eq!(environment(&both[..2]).token().as_deref(), Some("old"));
        let path = home.path().join("token");
        assert!(environment(&[("HF_TOKEN_PATH", path.to_str().unwrap())]).token().is_some());
        assert_eq!(environment(&[("HF_TOKEN", "x"), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "yes")]).token(), None);
        for (text, is_on) in [("1", true), ("on", true), ("True", true), ("0", false), ("", false), ("no", false)] {
            assert_eq!(environment(&[("HF_HUB_OFFLINE", text)]).is_offline(), is_on, "{text}");
            assert_eq!(environment(&[("HF_HUB_DISABLE_SYMLINKS", text)]).has_links(), !is_on, "{text}");
        }
        assert_eq!(environment(&[]).endpoint(), "https://huggingface.co");
        assert_eq!(environment(&[("HF_ENDPOINT", "http://here")]).endpoint(), "http://here");
    }
}

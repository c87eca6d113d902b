#!/usr/bin/env bash
# Breaks the planner, the guards and the records in small ways, one at a time:
# the simulated machine's tests must notice each. tests/mutants.sh [--check|NAME…]
# With --check it only sees whether each still changes its file.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
command -v cargo >/dev/null || PATH=$PATH:${HOME:-/root}/.cargo/bin

tree=target/mutants/tree
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}/mutants

# name | file | a sed script, which must change the file
mutants() {
  cat <<'LIST'
a group is not all or nothing|src/plan/script.rs|s/self.plan.steps.truncate(steps);//; s/self.restore(saved);/let _ = saved;/
what is unknown of others is gone|src/plan/routes.rs|s/_ => return None,/_ => return Some(false),/; s/^        _ => None,$/        _ => Some(false),/
no suspension|src/plan/script.rs|s/find(|suspension| suspension.holds_at(now))/find(|suspension| suspension.holds_at(now) \&\& false)/
an ended suspension hides another|src/plan/script.rs|s/suspensions.find(|suspension| suspension.holds_at(now))/suspensions.next().filter(|suspension| suspension.holds_at(now))/
no worst case behind hidden|src/plan/script.rs|s/self.plan.danger.insert(Danger::StopsUnseen(guid));//
no worst case behind a left daemon|src/model/step/danger.rs|s/vec!\[Danger::StopsUnseen(guid)\]/Vec::new()/
the trash forgets its content|src/model/step/effect.rs|s/repo.trash = std::mem::take(&mut repo.storage.file);/repo.storage.file = Part::Absent;/
no failure is noted|src/model/step/mod.rs|s/| Step::Wait { guid, project, .. } => Some(Step::Record(/| Step::Wait { guid, project, .. } if project.name.as_str().is_empty() => Some(Step::Record(/
half-made images stay|src/plan/image.rs|s/self.want(Step::ClearStaging(volume))?;//
what starts is served|src/plan/routes.rs|s/(ContainerState::Running, _) => None,/(ContainerState::Running, _) => Some(true),/
routes from hope|src/plan/routes.rs|s/table(self.desired, observed, &busy)/{ let _ = observed; table(self.desired, \&self.scratch, \&BTreeSet::new()) }/
no protection|src/plan/script.rs|s/if record.protected && matches/if false \&\& record.protected \&\& matches/
no protection of what is retained|src/plan/retire.rs|s/if record.protected {/if false \&\& record.protected {/
no owner|src/plan/script.rs|s/let ours = record.owner.is_none_or(|owner| owner == self.desired.owner);/let ours = true;/
protected things expire|src/plan/retire.rs|s/ && !record.protected$//
much goes without a word|src/plan/retire.rs|s/let many = /let many = false \&\& /
an emptied folder counts|src/plan/retire.rs|s/let nothing_left = /let nothing_left = false \&\& /
any hash confirms|src/plan/retire.rs|s/&& \*digest == hash/\&\& !hash.as_str().is_empty()/
pruned while something is unresolved|src/plan/retire.rs|s/if open || unreadable {/if unreadable {/
pruned while something cannot be read|src/plan/retire.rs|s/if open || unreadable {/if open {/
retired though not shown|src/plan/retire.rs|s/_ if !named && script/_ if false \&\& !named \&\& script/
no possible rename|src/plan/retire.rs|s/let suspect = /let suspect = false \&\& /
the renamed one goes|src/plan/retire.rs|s/(of_repository && !self.new.is_empty())/(false \&\& of_repository)/
due at once|src/model/permit.rs|s/(stone.due <= now)/(stone.due <= now || true)/
a tombstone's word is lost|src/plan/retire.rs|s/let held = record.deleted.is_some_and(|stone| stone.held);/let held = false;/
what expired is made anew|src/plan/retire.rs|s/|| self.desired.repositories.contains_key(&guid)//
a restore keeps its owner|src/plan/act.rs|s/self.want(patch(Patch::Release))?;//
the mark comes last|src/plan/retire.rs|s/script.mark_deleted(guid, stone)?;/script.close(guid, record.network)?; script.mark_deleted(guid, stone)?;/
lost records look like a new machine|src/plan/datastore.rs|s/if seen.is_none() && !images.is_empty() {/if false \&\& !images.is_empty() {/
an unknown image is no reason|src/resolve/identities.rs|s/if manifest.guid.is_none() && !self.unknown_images.is_empty() {/if false \&\& !self.unknown_images.is_empty() {/
ids while a record is unreadable|src/resolve/identities.rs|s/Part::Unknown(why) => unreadable = Some(why.clone()),/Part::Unknown(_) => {}/
others' tombstones are revived|src/resolve/mod.rs|s/let whose = (!source.asked.take_over)/let whose = false/
a stopped project forgets its failure|src/model/record.rs|s/record.projects.remove(project);/record.projects.remove(project); record.failed.remove(project);/
a missing image is made again|src/plan/image.rs|s/true => Err(Stop::Block(Blocked::ImageMissing)),/true => Ok(()),/
a name is taken twice|src/plan/act.rs|s/self.name_is_free(guid, &record.name)?;//
what is not well is no hindrance|src/plan/repository.rs|s/self.dependencies_are_well(spec, project, standing_in)?;//
what runs waits for its dependencies too|src/plan/repository.rs|s/if !starts\[0\].holds(&self.scratch)? {/if true {/
all start at once|src/execute/perform.rs|s/let depends = later.any(|on| desired.depends_on(&object, on));/let depends = later.any(|_| false);/
what starts now counts on what is put off|src/plan/repository.rs|s/later.push(project);/self.group(service, |script| script.project(spec, project, \&standing_in));/
all waits hold up all starts|src/execute/perform.rs|s/let opens = outcome.is_ok() && /let opens = false \&\& /
stopped in the order of their names|src/plan/repository.rs|s/for project in owned.into_iter().rev() {/for project in owned {/
stale addresses are published|src/plan/routes.rs|s/record.network.address(slot) != route.address/false \&\& record.network.address(slot) != route.address/
no thaw|src/plan/script.rs|s/if self.base_blocked().is_none() \&\& self.is_frozen(guid) {/if false \&\& self.is_frozen(guid) {/
a copy starts on its parent's containers|src/plan/image.rs|s/self.want(Step::CleanFork(guid))?;//
an image is made without its passphrase|src/plan/image.rs|s/self.at_hand(&seal.passphrase)?;//
a copy becomes another's|src/plan/image.rs|s/is.is_some_and(|is| is.parent == parent)/is.is_some()/
encrypted or plain is all the same|src/plan/image.rs|s/if sealed != seal.is_some() {/if false \&\& sealed != seal.is_some() {/
a key for boot is for ever|src/plan/image.rs|s/return match repo.key.get()?.is_some() || copied {/return match false \&\& copied {/
a copy gets any network|src/plan/act.rs|s/self.network_is_free(guid, network)?;//
the mapping does not grow|src/plan/image.rs|s/self.want(Step::GrowMapper(guid))?;//
a closed datastore is opened|src/plan/datastore.rs|s/Some(by)) if !is_open =>/Some(by)) if false \&\& !is_open =>/
a snapshot is dropped that is needed|src/model/permit.rs|s/(!needed && !failed).then_some/(!failed).then_some/
the snapshot comes after the files|src/plan/repository.rs|s/self.begin(guid, project, standing_in)?;/self.put_in_place(guid, project)?; self.begin(guid, project, standing_in)?;/
an open image is replaced|src/model/step/ready.rs|/"there is no image")?;/,/is_closed(repo)/s/is_closed(repo)/Ok(())/
what is replaced is lost|src/model/step/effect.rs|s/repo.replaced = std::mem::replace(&mut repo.storage.file, size);/repo.storage.file = size;/
what is to be replaced is opened|src/plan/repository.rs|s/self.finish_rewind(guid, spec.network)?;//
a failed update keeps its data|src/plan/repository.rs|s/self.rewind_failed(spec)?;//
what a failure costs is not shown|src/plan/transaction.rs|s/self.plan.danger.insert(Danger::TakesBack(guid));//
a kept revision of another network stands in|src/plan/stand_in.rs|s/.filter(|kept| kept.is_of(spec.network))//
the reserve is kept to the end|src/plan/retire.rs|s/self.make_room_to_free()?;//
nothing is tried first|src/plan/trial.rs|s/if !project.fork_first {/if true {/
a trial counts before it is well|src/plan/trial.rs|s/(None, true) if !self.plan.blocked/(None, _) if !self.plan.blocked/
a trial is never over|src/plan/script.rs|s/} else if self.desired.spent.contains(&guid) {/} else if false \&\& self.desired.spent.contains(\&guid) {/
a trial of another change counts|src/resolve/trials.rs|s/Some(trial) => trial.revision == \*revision,/Some(_) => true,/
what comes after a trial is not shown|src/plan/repository.rs|s/self.foresee(spec, &spec.projects\[name\]);//
nothing runs during a trial|src/plan/stand_in.rs|s/if stays || !waits \&\& /if stays || waits || /
others' trials are spent|src/resolve/trials.rs|s/let ours = is_ours(source, copy) || /let ours = true || is_ours(source, copy) || /
more is promised than was said|src/plan/image.rs|s/most.saturating_sub(promised)/most/
what is really free does not count|src/plan/image.rs|s/really.filter(|free| /really.filter(|free| false \&\& /
what comes back and fails is waited for for ever|src/plan/stand_in.rs|s/&& \*hash == before.hash$/\&\& hash.as_str().is_empty()/
any limits will do|src/model/actual.rs|s/let within = /let within = true || /
how a trial failed is noted anew|src/plan/trial.rs|s/if matches!(said(name, revision), Some(Verdict::Failed(_))) {/if false {/
a datastore is made over what is there|src/plan/datastore.rs|s/disk.and_then(|disk| disk.refused.as_ref())/disk.and_then(|_| None::<\&String>)/
an image is kept over a snapshot|src/plan/rewind.rs|s/Some(rewind) => self.with_room(guid, rewind)?.keep,/Some(rewind) => rewind.keep,/
LIST
}

if [ "${1-}" = --check ]; then
  stale=0
  while IFS='|' read -r name file change; do
    if sed "$change" "$file" | cmp -s - "$file"; then
      echo "stale: $name changes nothing in $file" >&2
      stale=1
    fi
  done < <(mutants)
  exit "$stale"
fi

wanted() {
  [ $# -gt 1 ] || return 0
  local name=$1 other
  shift
  for other; do [ "$name" != "$other" ] || return 0; done
  return 1
}

fresh() {
  rm -rf -- "$tree"
  mkdir -p "$tree"
  cp -r src tests benches Cargo.toml Cargo.lock .config "$tree/"
  # The others would only take their time to be built.
  echo 'mod sim;' >"$tree/tests/it/main.rs"
}
built() { (cd "$tree" && cargo test --locked --test it --no-run) >"$CARGO_TARGET_DIR/log" 2>&1; }
# The histories take minutes: they come last.
passes() {
  local tests
  for tests in 'test(/^sim::/) and not test(/histories/)' 'test(/^sim::histories/)'; do
    (cd "$tree" && RUST_BACKTRACE=0 cargo nextest run --locked --test it -E "$tests") >"$CARGO_TARGET_DIR/log" 2>&1 || return
  done
}

# Where the tests fail anyway, that they fail says nothing.
fresh
built && passes || { tail -n 20 "$CARGO_TARGET_DIR/log" >&2; echo "mutants: the tests fail without any" >&2; exit 1; }

survived=() tried=0
# What comes after the second bar is the sed script, bars and all.
while IFS='|' read -r name file change; do
  wanted "$name" "$@" || continue
  fresh
  before=$(sha256sum <"$tree/$file")
  sed -i "$change" "$tree/$file"
  if [ "$before" = "$(sha256sum <"$tree/$file")" ]; then
    echo "stale: $name changes nothing in $file" >&2
    survived+=("$name (stale)")
    continue
  fi
  tried=$((tried + 1))
  if ! built; then
    echo "broken: $name does not compile" >&2
    survived+=("$name (does not compile)")
  elif passes; then
    echo "SURVIVED: $name" >&2
    survived+=("$name")
  else
    echo "killed: $name  ($(grep -cE '^ +(FAIL|SIGABRT)' "$CARGO_TARGET_DIR/log" || true), $(grep -m1 -oE 'sim::[a-z_0-9:]+' <(grep -E '^ +(FAIL|SIGABRT)' "$CARGO_TARGET_DIR/log")))"
  fi
done < <(mutants)

[ ${#survived[@]} = 0 ] || { printf 'survived: %s\n' "${survived[@]}" >&2; exit 1; }
echo "$tried mutants, all killed"

import {
  allHandlersFinished,
  CancellationScope,
  ChildWorkflowFailure,
  condition,
  continueAsNew,
  getExternalWorkflowHandle,
  isCancellation,
  log,
  patched,
  setCurrentDetails,
  setHandler,
  sleep,
  workflowInfo,
} from '@temporalio/workflow';
import type { ClusterManifest } from '../manifests/cluster.ts';
import { archivingInstance } from './choose-instance.ts';
import { clusterPage } from './cluster-page.ts';
import { failure } from './failures.ts';
import {
  begin,
  cancelWorkflow,
  ignore,
  now,
  outcomeErrands,
  refusing,
  rethrowCancellation,
  workerErrands,
  type Own,
} from './keeper-errands.ts';
import { isUnresolved, parseApplyInput, parseClusterInput, refuseUnresolved } from './manifest-inputs.ts';
import * as walkeep from './interface.ts';
import * as agenda from './keeper-agenda.ts';
import * as adoption from './keeper-adoption.ts';
import { unwrittenOutcomes, withoutUnwritten } from './keeper-outcomes.ts';
import { fitting } from './keeper-size.ts';
import * as duties from './keeper-duties.ts';
import * as keeper from './keeper-state.ts';
import { problemsOf, statusOf } from './keeper-status.ts';
import { makeFindable } from './search-attributes.ts';

/** F4: a run's history stays far below what a server may hold; what is known is carried on. */
const CONTINUE_AFTER_EVENTS = 1_000;
const BEGIN_AGAIN_MS = 10 * 60_000;
/** A Backup may wait this long for a worker: it was declared, so it is wanted until its deadline. */
const BACKUP_WAITS_SECONDS = 12 * 3600;
const RECOVERY_WAITS_SECONDS = 30 * 86_400;
const DAY_MS = 86_400_000;
/** Archiving reports every hour; so many times longer than a slot may be late, somewhat over two hours. */
const SILENT_TIMES = 9;
/** Timers are late by moments; by more only when nobody was there to fire or to hear them. */
const LATE_MS = 60_000;

/**
 * The keeper of one cluster. It holds the applied manifest, sees to it that every worker of the cluster has it, keeps
 * archiving observed, and starts applied Backups one after the other. It lives as long as the cluster and continues as
 * new; what it starts lives on beside it and is found again by its id.
 *
 * @param manifest the Cluster, as `walkeep apply` or a person wrote it
 * @param carried only given by the keeper itself, when it continues as new
 */
export async function cluster(manifest: ClusterManifest, carried?: keeper.KeeperState): Promise<void> {
  // Runs of older code go on as they began; asked before anything else, so that no run changes its mind in the middle.
  const careful = patched('careful');
  const run = new Keeper(beginning(carried ?? startingState(manifest), careful));
  run.listen();
  try {
    await run.keep();
  } catch (error) {
    if (isCancellation(error)) await CancellationScope.nonCancellable(() => run.leave());
    throw error;
  }
  await condition(allHandlersFinished);
  await continueAsNew<typeof cluster>(run.state.manifest, fitting(run.state));
}

/** @param careful whether this run is; a run of older code may have got its state from one that was */
function beginning(state: keeper.KeeperState, careful: boolean): keeper.KeeperState {
  const { careful: _earlier, ...rest } = state;
  if (!careful) return rest;
  // Begun anew, or by a version that never heard of them: then only the workers know what was applied besides.
  return { ...rest, careful, ...(rest.schedules === undefined && { besidesUnknown: true }) };
}

function startingState(manifest: ClusterManifest): keeper.KeeperState {
  try {
    return firstState(manifest);
  } catch (error) {
    // Whoever applied it is to hear why, and not that nobody listens.
    const refuse = (): never => {
      throw error;
    };
    setHandler(walkeep.applyUpdate, (_input) => refuse(), { validator: (_input) => refuse() });
    throw error;
  }
}

function firstState(manifest: ClusterManifest): keeper.KeeperState {
  const parsed = parseClusterInput(manifest);
  // Runs that began with 0.2.0 or before go on with what they took.
  if (isUnresolved(parsed) && patched('object-stores')) refuseUnresolved(parsed);
  const expected = walkeep.clusterWorkflowId(namespaceOf(parsed), parsed.metadata.name);
  if (workflowInfo().workflowId !== expected) {
    throw failure('input-invalid', `the keeper of this cluster must have the workflow id "${expected}"`);
  }
  return refusing(() => keeper.newKeeper(parsed, now()));
}

function namespaceOf(manifest: ClusterManifest): string {
  return manifest.metadata.namespace ?? walkeep.DEFAULT_NAMESPACE;
}

class Keeper {
  state: keeper.KeeperState;
  readonly #namespace: string;
  readonly #name: string;
  readonly #own: Own;
  /** Raised by whatever may give the keeper something to do. */
  #woken = true;
  #archivingBegun = false;
  /** When archiving was found running already: then nobody tells when it ends but its silence. */
  #archivingFoundAt: number | undefined;
  /** Archiving that ended by itself is begun again, but not in a hot loop. */
  #archivingNotBefore = 0;
  /** When what runs was looked at last. */
  #lookedAt = Date.now();
  /** Where archiving was last pointed to. */
  #archivingTold = '';
  /** What an instance had last reported when it did not take the manifest: it is tried again when it reports anew. */
  readonly #unreached = new Map<string, string>();
  #contacted = '';
  /** When the keeper meant to wake: much later means that Temporal, or every worker, was away. */
  #meantToWakeAt: number | undefined;
  #phase = '';

  constructor(state: keeper.KeeperState) {
    this.state = state;
    this.#namespace = namespaceOf(state.manifest);
    this.#name = state.manifest.metadata.name;
    this.#own = { namespace: this.#namespace, cluster: this.#name };
  }

  listen(): void {
    setHandler(
      walkeep.applyUpdate,
      (input) => {
        const applied = keeper.applyTo(this.state, parseApplyInput(input));
        this.#become(agenda.withAgenda(adoption.noteNamed(applied.state, input), now()));
        return applied.result;
      },
      {
        validator: (input) => void this.#preview(input),
        description:
          'Makes manifests true: {"cluster": {…}, "backups": [{…}], "scheduledBackups": [{…}], "policy": {…}, ' +
          '"verifications": [{…}], "remove": [{"kind", "name"}]}. Applying the same again changes nothing.',
      },
    );
    setHandler(walkeep.previewQuery, (input) => this.#preview(input), {
      description: 'What apply would answer, without doing it.',
    });
    setHandler(walkeep.clusterStatusQuery, () => statusOf(this.state, this.#namespace, Date.now()), {
      description: 'What protects this cluster.',
    });
    setHandler(
      walkeep.manifestQuery,
      () => ({ manifest: this.state.manifest, revision: this.state.revision }),
      { description: 'The applied manifest and its revision.' },
    );
    setHandler(walkeep.desireQuery, () => this.#desire(), {
      description:
        'All that is declared about this cluster: its manifest, policy, schedules, verifications; and, as "doubt", ' +
        'why nothing may be deleted by it now.',
    });
    setHandler(
      walkeep.instanceSignal,
      (facts) => this.#become(keeper.noteInstance(this.state, facts, now())),
      {
        description: 'A worker says what it is.',
      },
    );
    setHandler(
      walkeep.backupSignal,
      ({ backupName, status, unwritten }) =>
        this.#become(keeper.noteBackup(this.state, backupName, status, now(), unwritten)),
      { description: 'A Backup tells how it stands.' },
    );
    setHandler(walkeep.archivingSignal, (report) => this.#become(keeper.noteArchiving(this.state, report)), {
      description: 'Archiving tells how it stands.',
    });
    setHandler(walkeep.slotSignal, (news) => this.#become(agenda.noteSlot(this.state, news)), {
      description: 'A schedule tells what became of a slot.',
    });
    setHandler(walkeep.sweepSignal, (report) => this.#become(keeper.noteSweep(this.state, report)), {
      description: 'A sweep tells what it did.',
    });
    setHandler(walkeep.auditSignal, (report) => this.#become(keeper.noteAudit(this.state, report)), {
      description: 'An audit tells what the archive holds.',
    });
    setHandler(
      walkeep.verificationSignal,
      (verification) => this.#become(keeper.noteVerification(this.state, verification)),
      { description: 'A verification tells what it found.' },
    );
    setHandler(
      walkeep.whoIsThereSignal,
      async ({ replyTo }) => {
        // Whoever asked may be gone by now.
        await getExternalWorkflowHandle(replyTo)
          .signal(walkeep.instancesSignal, this.state.instances)
          .catch(ignore);
      },
      { description: 'A workflow asks which instances there are.' },
    );
  }

  /** Works until the history is long enough to begin a new one. */
  async keep(): Promise<void> {
    let begun = false;
    while (!this.#mustContinue()) {
      this.#woken = false;
      await this.#spreadManifest();
      if (!begun) begun = this.#beFindable();
      await this.#observeArchiving();
      await this.#beginRecovery();
      await this.#beginBackup();
      // Runs that began with 0.1.0 go on as they did until the server has replayed them.
      const orchestrates = patched('orchestration');
      if (orchestrates) await this.#doWhatIsDue();
      setCurrentDetails(clusterPage(statusOf(this.state, this.#namespace, Date.now()), this.state));
      if (orchestrates) this.#showPhase(begun);
      await (orchestrates ? this.#restUntilDue() : this.#rest());
    }
  }

  /** Nothing of what it began goes on by itself: nobody would look after it any more. */
  async leave(): Promise<void> {
    const { schedules = [], agenda: kept } = this.state;
    if (this.state.careful) await cancelWorkflow(walkeep.sweepWorkflowId(this.#namespace, this.#name));
    const hasSchedules =
      schedules.length > 0 || (this.state.careful && (kept?.knownSchedules ?? []).length > 0);
    if (patched('orchestration') && hasSchedules) {
      this.state = { ...this.state, schedules: [] };
      await this.#after(duties.convergeSchedules(this.#own, this.state));
    }
    if (this.state.careful) await this.#forgetPlans();
    await cancelWorkflow(walkeep.walArchivingWorkflowId(this.#namespace, this.#name));
  }

  /**
   * What was planned is not to come back with the next keeper, which asks the workers what they hold. The policy stays:
   * a Cluster that is applied again must not lose what only its policy kept.
   */
  async #forgetPlans(): Promise<void> {
    this.state = { ...this.state, schedules: [], verifications: [], revision: this.state.revision + 1 };
    const queues = this.state.instances.map(({ instance }) =>
      walkeep.instanceQueue(this.#namespace, this.#name, instance),
    );
    await Promise.all(queues.map((queue) => this.#store(queue).catch(ignore)));
  }

  #desire(): walkeep.DesireAnswer {
    const doubt = adoption.doubtOf(this.state);
    const { removed, unplaced } = this.state;
    return {
      ...keeper.desireOf(this.state),
      ...(doubt !== undefined && { doubt }),
      ...(removed && { removed }),
      ...(unplaced && { unplaced }),
    };
  }

  #preview(input: walkeep.ApplyInput): walkeep.ApplyResult {
    const parsed = parseApplyInput(input);
    refuseUnresolved(parsed.cluster);
    return refusing(() => keeper.applyTo(this.state, parsed).result);
  }

  #become(state: keeper.KeeperState): void {
    this.state = state;
    this.#woken = true;
  }

  #mustContinue(): boolean {
    const { historyLength, continueAsNewSuggested } = workflowInfo();
    return historyLength >= CONTINUE_AFTER_EVENTS || continueAsNewSuggested;
  }

  #lookDueAt(): number {
    return this.#lookedAt + agenda.keeperPace(this.state).lookMs;
  }

  /** Until there is news; while something runs whose end could be missed, it is looked after every ten minutes. */
  async #rest(): Promise<void> {
    const news = () => this.#woken || this.#mustContinue();
    const watching = this.state.backups.length > 0 || (this.#wantsArchiving() && !this.#archivingBegun);
    if (!watching) return condition(news);
    // News must not put the look off for ever: every worker reports as often as this.
    const leftMs = this.#lookDueAt() - Date.now();
    if (leftMs > 0 && (await condition(news, leftMs, { summary: 'next look at what runs' }))) return;
    this.#lookedAt = Date.now();
    await this.#lookAtRunningBackup();
  }

  /** Until there is news or something is due; what runs and could end unnoticed is looked after every ten minutes. */
  async #restUntilDue(): Promise<void> {
    const nowMs = Date.now();
    const due =
      agenda.nextWorkAt(this.#planned(), nowMs, agenda.keeperPace(this.state)) ?? Number.POSITIVE_INFINITY;
    const watching = this.state.backups.length > 0 || (this.#wantsArchiving() && !this.#archivingBegun);
    const wakeAt = Math.min(
      due,
      watching ? this.#lookDueAt() : Number.POSITIVE_INFINITY,
      this.#archivingSilentAt(),
      nowMs + DAY_MS,
    );
    this.#meantToWakeAt = wakeAt;
    await condition(() => this.#woken || this.#mustContinue(), Math.max(1, wakeAt - nowMs), {
      summary: due <= wakeAt ? 'until something is due' : 'next look at what runs',
    });
    if (!watching || Date.now() < this.#lookDueAt()) return;
    this.#lookedAt = Date.now();
    await this.#lookAtRunningBackup();
  }

  async #doWhatIsDue(): Promise<void> {
    this.state = agenda.withAgenda(this.state, now());
    const pace = agenda.keeperPace(this.state);
    await this.#lettingOthersWake(pace);
    for (const work of agenda.dueWork(this.#planned(), Date.now(), pace)) {
      if (!this.#isStillDue(work)) continue;
      // One that can't be done must not keep the others from their turn.
      await this.#do(work).catch((error: unknown) => {
        rethrowCancellation(error);
        log.warn(`${work.kind} could not be begun: ${String(error)}`);
      });
    }
  }

  /**
   * What is planned by. With workers of two versions, one that knows nothing of outcomes may have heard of an unwritten
   * one: what this run did until then had no part of it, not even in when it woke. Asked only where there is one, so
   * that runs without have no mark.
   */
  #planned(): keeper.KeeperState {
    const isOpen = unwrittenOutcomes(this.state).length > 0;
    return isOpen && !patched('outcomes') ? withoutUnwritten(this.state) : this.state;
  }

  /** After an outage everything is due at once; what Temporal's Schedules make up for comes first. */
  async #lettingOthersWake({ missedMs }: agenda.KeeperPace): Promise<void> {
    const lateMs = Date.now() - (this.#meantToWakeAt ?? Date.now());
    this.#meantToWakeAt = undefined;
    if (lateMs < LATE_MS || (this.state.schedules ?? []).length === 0) return;
    await sleep(Math.min(missedMs, 3 * 60_000), { summary: 'let the schedules make up for what was missed' });
  }

  /** What was done before it may have changed that. */
  #isStillDue({ kind }: agenda.DueWork): boolean {
    if (!this.state.careful) return true;
    // One hold that can't be placed takes minutes to fail; the others would fail for the same reason.
    if (kind === 'hold') return !(Date.parse(this.state.agenda?.holdsNotBefore ?? '') > Date.now());
    if (kind === 'outcome') return !(Date.parse(this.state.agenda?.outcomesNotBefore ?? '') > Date.now());
    return kind !== 'sweep' || adoption.doubtOf(this.state) === undefined;
  }

  /** What came of it goes into the state of then, which signals may have changed meanwhile. */
  async #after(duty: Promise<duties.Change>): Promise<void> {
    const change = await duty;
    this.state = change(this.state);
  }

  async #do(work: agenda.DueWork): Promise<void> {
    const { state } = this;
    const reference = this.#own;
    switch (work.kind) {
      case 'schedules':
        return this.#after(duties.convergeSchedules(this.#own, state));
      case 'slots':
        return this.#after(duties.auditSlots(this.#own, state, work));
      case 'hold':
        return this.#after(duties.placeHold(this.#own, state, work));
      case 'outcome':
        return this.#after(duties.writeOutcome(this.#own, state, work));
      case 'gap-backup':
        log.warn('the archive has a hole that nobody can fill: a base backup begins a new window');
        this.state = agenda.noteAgenda(keeper.queueGapBackup(state, work.name), { gapBackupAt: now() });
        return this.#beginBackup();
      case 'sweep':
        this.state = agenda.noteAgenda(state, { sweptAt: now() });
        return void (await begin(
          this.#own,
          walkeep.WORKFLOW.retentionSweep,
          walkeep.sweepWorkflowId(this.#namespace, this.#name),
          reference satisfies walkeep.RetentionSweepInput,
        ));
      case 'audit': {
        const at = now();
        this.state = agenda.noteAgenda(state, { auditedAt: at, ...(work.readsWal && { walReadAt: at }) });
        const input: walkeep.WalAuditInput = {
          ...reference,
          repair: true,
          read: work.readsWal ? 'new' : 'none',
        };
        return void (await begin(
          this.#own,
          walkeep.WORKFLOW.walAudit,
          walkeep.auditWorkflowId(this.#namespace, this.#name),
          input,
        ));
      }
      case 'verification': {
        const verified = { ...state.agenda?.verified, [work.name]: now() };
        this.state = agenda.noteAgenda(state, { verified });
        const input: walkeep.RestoreVerificationInput = { ...reference, scheduledVerification: work.name };
        // The id has no time in it: one that still runs is not overtaken.
        return void (await begin(
          this.#own,
          walkeep.WORKFLOW.restoreVerification,
          walkeep.verificationWorkflowId(this.#namespace, this.#name, work.name),
          input,
        ));
      }
    }
  }

  /** Whether something needs a person, so that a list can be filtered by it. */
  #showPhase(searchable: boolean): void {
    const problems = problemsOf(this.state, Date.now());
    const phase = problems.length === 0 ? 'protected' : 'needs-attention';
    if (phase === this.#phase) return;
    // Written once it can be: until a worker has reported it is not known whether the attribute exists.
    if (searchable || !this.state.careful) this.#phase = phase;
    makeFindable(searchable, { phase });
    if (problems.length > 0) log.warn(`needs attention: ${problems.join('; ')}`);
  }

  /** Brings the manifest to every worker that holds another one; the first contact is through the cluster's queue. */
  async #spreadManifest(): Promise<void> {
    if (this.state.instances.length === 0 && this.#contacted !== this.state.fingerprint) {
      this.#contacted = this.state.fingerprint;
      await this.#meet().catch(rethrowCancellation);
    }
    await this.#hearOut();
    const behind = keeper
      .instancesBehind(this.state)
      .filter((one) => this.#unreached.get(one.instance) !== one.seenAt)
      // What it holds may be the last copy.
      .filter((one) => !this.state.careful || !adoption.hasToBeAsked(this.state, one));
    await Promise.all(
      behind.map(async ({ instance, seenAt }) => {
        try {
          await this.#store(walkeep.instanceQueue(this.#namespace, this.#name, instance));
          this.#unreached.delete(instance);
        } catch (error) {
          rethrowCancellation(error);
          this.#unreached.set(instance, seenAt);
          log.warn(`${instance} did not take the manifest; it is tried again when its worker reports`);
        }
      }),
    );
  }

  /** Who is there? What a worker holds from an earlier keeper has to be known before it is replaced. */
  async #meet(queue = walkeep.clusterQueue(this.#namespace, this.#name)): Promise<void> {
    const { held, ...facts } = await workerErrands(queue, 'who is there?').describeInstance(this.#own);
    const asked = this.state.careful && adoption.hasToBeAsked(this.state, facts);
    this.state = keeper.noteInstance(this.state, facts, now());
    if (!asked || !held) return;
    const before = this.state.revision;
    const { instance, revision } = facts;
    const told = { instance, held, ...(revision !== undefined && { revision }) };
    this.state = agenda.withAgenda(adoption.adopt(this.state, told), now());
    if (this.state.revision > before) log.info(`taken over from ${facts.instance}, which held it`);
  }

  /** Workers that may hold what this keeper never heard of are asked before it is replaced: the newest of it first. */
  async #hearOut(): Promise<void> {
    if (!this.state.careful) return;
    const newestFirst = keeper
      .instancesBehind(this.state)
      .toSorted((a, b) => (b.revision ?? 0) - (a.revision ?? 0));
    for (const one of newestFirst) {
      const isAsked =
        adoption.hasToBeAsked(this.state, one) && this.#unreached.get(one.instance) !== one.seenAt;
      if (!isAsked) continue;
      try {
        await this.#meet(walkeep.instanceQueue(this.#namespace, this.#name, one.instance));
      } catch (error) {
        rethrowCancellation(error);
        this.#unreached.set(one.instance, one.seenAt);
        log.warn(
          `${one.instance} could not be asked what it holds; that is tried again when its worker reports`,
        );
      }
    }
  }

  async #store(queue: string): Promise<void> {
    const { cluster: manifest, ...besides } = keeper.desireOf(this.state);
    const { revision, besidesUnknown, careful, schedules } = this.state;
    const isKnown = careful ? !besidesUnknown : schedules !== undefined;
    const summary = `store revision ${revision} of the manifest`;
    const facts = await workerErrands(queue, summary).storeManifest({
      ...this.#own,
      manifest,
      revision,
      // What is not known is not to be replaced: it may be the last copy.
      ...(isKnown && { besides }),
    });
    this.state = keeper.noteInstance(this.state, facts, now());
  }

  #beFindable(): boolean {
    const exists = this.state.instances.some((one) => one.searchAttributes);
    makeFindable(exists, { cluster: this.#name, namespace: this.#namespace, operation: 'cluster' });
    return exists;
  }

  #wantsArchiving(): boolean {
    return (
      this.state.manifest.spec.backup?.barmanObjectStore !== undefined &&
      this.state.instances.some((one) => one.role !== 'absent')
    );
  }

  async #observeArchiving(): Promise<void> {
    if (!this.#wantsArchiving()) return;
    if (Date.now() >= this.#archivingSilentAt()) this.#archivingBegun = false;
    const workflowId = walkeep.walArchivingWorkflowId(this.#namespace, this.#name);
    const told = archivingInstance(this.state.instances) ?? '';
    if (!this.#archivingBegun) {
      if (Date.now() < this.#archivingNotBefore) return;
      this.#archivingBegun = true;
      const ended = () => {
        this.#archivingBegun = false;
        this.#archivingNotBefore = Date.now() + BEGIN_AGAIN_MS;
        this.#woken = true;
      };
      const isNew = await begin(
        this.#own,
        walkeep.WORKFLOW.walArchiving,
        workflowId,
        { cluster: this.#name, namespace: this.#namespace },
        ended,
      );
      this.#archivingFoundAt = isNew ? undefined : Date.now();
    } else if (told === this.#archivingTold) {
      return;
    }
    this.#archivingTold = told;
    await getExternalWorkflowHandle(workflowId)
      .signal(walkeep.instancesSignal, this.state.instances)
      .catch(rethrowCancellation);
  }

  /** When it has been silent for so long that it may have ended; it reports every hour. */
  #archivingSilentAt(): number {
    const foundAt = this.#archivingBegun ? this.#archivingFoundAt : undefined;
    if (!this.state.careful || foundAt === undefined || !this.#wantsArchiving())
      return Number.POSITIVE_INFINITY;
    const { archiving } = this.state;
    const heardAt = Math.max(foundAt, archiving ? Date.parse(archiving.at) : 0);
    return heardAt + SILENT_TIMES * agenda.keeperPace(this.state).missedMs;
  }

  /** A recovery that the manifest asks for: once its worker is there and has the manifest. */
  async #beginRecovery(): Promise<void> {
    const ready = this.state.instances.length > 0 && keeper.instancesBehind(this.state).length === 0;
    if (this.state.recoveryBegun || !this.state.manifest.spec.bootstrap?.recovery || !ready) return;
    this.state = { ...this.state, recoveryBegun: true };
    await begin(this.#own, walkeep.WORKFLOW.restore, walkeep.restoreWorkflowId(this.#namespace, this.#name), {
      cluster: this.#name,
      namespace: this.#namespace,
      bootstrap: true,
      waitForWorkerSeconds: RECOVERY_WAITS_SECONDS,
    });
  }

  async #beginBackup(): Promise<void> {
    const backup = keeper.nextBackup(this.state);
    if (!backup) return;
    this.state = keeper.markBegun(this.state, backup.name);
    const workflowId = walkeep.backupWorkflowId(this.#namespace, backup.name);
    const input: walkeep.BaseBackupInput = {
      cluster: this.#name,
      namespace: this.#namespace,
      name: backup.name,
      method: backup.method,
      waitForWorkerSeconds: BACKUP_WAITS_SECONDS,
      ...(backup.target && { target: backup.target }),
    };
    await begin(this.#own, walkeep.WORKFLOW.baseBackup, workflowId, input, (error) => {
      const stillOpen = this.state.backups.some((one) => one.name === backup.name);
      // It tells by signal how it ended; one that was terminated could not.
      if (stillOpen && error) this.#backupEndedSilently(backup.name, error);
    });
  }

  /** After continuing as new, nothing but this tells of a Backup that was terminated. */
  async #lookAtRunningBackup(): Promise<void> {
    const [running] = this.state.backups;
    if (!running?.begun) return;
    const handle = getExternalWorkflowHandle(walkeep.backupWorkflowId(this.#namespace, running.name));
    const reached = await handle.signal(walkeep.reportSignal).then(
      () => true,
      (error: unknown) => {
        rethrowCancellation(error);
        return false;
      },
    );
    if (!reached && !this.#hasEnded(running.name)) await this.#readOutcome(running.name);
  }

  /** It told how it ended meanwhile, which is more than the repository may know. Runs of older code read it all the same. */
  #hasEnded(backupName: string): boolean {
    return !this.state.backups.some(({ name }) => name === backupName) && patched('outcomes');
  }

  async #readOutcome(backupName: string): Promise<void> {
    const { manifest } = this.state;
    try {
      const status = await outcomeErrands(this.#own, backupName).findOutcome({
        ...this.#own,
        backupName,
        manifest,
      });
      if (this.#hasEnded(backupName)) return;
      if (status) this.#become(keeper.noteBackup(this.state, backupName, status, now()));
      else this.#backupEndedSilently(backupName, undefined);
    } catch (error) {
      // Nobody could say; it is asked again at the next look.
      rethrowCancellation(error);
    }
  }

  #backupEndedSilently(name: string, error: unknown): void {
    const cause = error instanceof ChildWorkflowFailure ? error.cause?.message : undefined;
    const why = `its workflow ended without a record${cause === undefined ? '' : `: ${cause}`}`;
    this.#become(keeper.noteBackup(this.state, name, { phase: 'failed', error: why }, now()));
  }
}

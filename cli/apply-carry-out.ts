import { BackupError, isBackupError } from '../core/errors.ts';
import { forgetWaiting, readWaiting } from '../operations/declared.ts';
import type { ApplyInput } from '../workflows/interface.ts';
import { refuseUnheldBackups, startBackups } from './apply-backups.ts';
import { refuseDropping, takenOver } from './apply-besides.ts';
import type { ApplyPlan } from './apply-plan.ts';
import { applyToKeeper, previewByKeeper, waitUntilHeld } from './apply-to-keeper.ts';
import { requireShorterWindows } from './apply-windows.ts';
import type { Host } from './host.ts';
import { RESOURCE, say, sayResult } from './resource-lines.ts';
import type { TemporalClient } from './temporal-client.ts';

/** @throws BackupError `temporal-unavailable`, which says that nothing was applied */
export async function requireTemporal(host: Host): Promise<TemporalClient> {
  try {
    return await host.temporal();
  } catch (error) {
    if (!isBackupError(error, 'temporal-unavailable')) throw error;
    throw new BackupError(error.code, `${error.message}, so nothing was applied`, {
      cause: error,
      hint: error.hint,
    });
  }
}

/** The secrets first: a worker that hears of the manifest needs them at once. */
export async function carryOut(host: Host, plan: ApplyPlan, yes: boolean): Promise<void> {
  // Before anything changes: without Temporal nothing of the manifests could be acted on.
  const temporal = plan.keepers.length > 0 ? await requireTemporal(host) : undefined;
  const running = new Set<string>();
  // What one of the keepers would refuse refuses all. One that does not answer is heard when its turn comes.
  for (const { namespace, cluster, input } of temporal ? plan.keepers : []) {
    try {
      const answered = await previewByKeeper(temporal as TemporalClient, namespace, cluster, input);
      if (answered) running.add(`${namespace}/${cluster}`);
    } catch (error) {
      if (isBackupError(error, 'manifest-invalid')) throw error;
      running.add(`${namespace}/${cluster}`);
    }
  }
  for (const one of plan.keepers)
    if (!running.has(`${one.namespace}/${one.cluster}`)) refuseUnheldBackups(one, one.input);
  if (temporal) await refuseDropping(host, temporal, plan.keepers);
  await requireShorterWindows(host, plan.keepers, yes);
  for (const { metadata, values } of plan.secrets) {
    const { outcome, directory } = await host.state.createSecret({ ...metadata, values });
    say(
      'secret',
      metadata.name,
      `${outcome === 'changed' ? 'configured' : outcome} (kept on this host: ${directory})`,
    );
  }
  for (const { kind, manifest } of plan.kept) {
    if (kind !== 'ObjectStore') continue;
    const { outcome } = await host.state.objectStores.save(manifest);
    const word = outcome === 'changed' ? 'configured' : outcome;
    say(RESOURCE.ObjectStore, manifest.metadata.name, `${word} (kept on this host)`);
  }
  if (!temporal) return;
  const said = new Set<string>();
  for (const { namespace, cluster, input } of plan.keepers) {
    const isNew = input.cluster !== undefined && !running.has(`${namespace}/${cluster}`);
    const whole = isNew ? await withWhatIsKept(host, namespace, cluster, input) : input;
    const result = await applyToKeeper(temporal, namespace, cluster, whole);
    if (result) {
      sayResult(result, said);
      if (changesManifest(input)) await waitUntilHeld(temporal, namespace, cluster, result.revision);
      if (isNew) {
        await forgetWaiting(host.state, namespace, cluster);
        for (const { kind, name } of await takenOver(temporal, namespace, cluster, result))
          say(RESOURCE[kind], name, `taken over: a worker of ${cluster} held it`);
      }
    } else {
      // Its keeper has ended meanwhile.
      refuseUnheldBackups({ namespace, cluster }, input);
      await keepForLater(host, cluster, input);
      await startBackups(temporal, namespace, cluster, input.backups ?? []);
    }
  }
}

function changesManifest({ cluster, policy, scheduledBackups, verifications }: ApplyInput): boolean {
  return [cluster, policy, scheduledBackups, verifications].some((part) => part !== undefined);
}

/**
 * A new keeper also gets what was applied on this host before the Cluster was. What workers hold, when Temporal has lost
 * its state, it asks them for itself.
 */
async function withWhatIsKept(
  host: Host,
  namespace: string,
  cluster: string,
  input: ApplyInput,
): Promise<ApplyInput> {
  const kept = await readWaiting(host.state, namespace, cluster);
  const scheduledBackups = unlessGiven(kept.schedules, input.scheduledBackups);
  const verifications = unlessGiven(kept.verifications, input.verifications);
  const policy = input.policy ?? kept.policy;
  return {
    ...input,
    ...(policy && { policy }),
    ...(scheduledBackups.length > 0 && { scheduledBackups }),
    ...(verifications.length > 0 && { verifications }),
  };
}

function unlessGiven<Manifest extends { readonly metadata: { readonly name: string } }>(
  kept: readonly Manifest[],
  given: readonly Manifest[] = [],
): Manifest[] {
  const names = new Set(given.map(({ metadata }) => metadata.name));
  return [...given, ...kept.filter(({ metadata }) => !names.has(metadata.name))];
}

/** What belongs to a cluster that is not applied yet is kept on this host until it is. */
async function keepForLater(host: Host, cluster: string, input: ApplyInput): Promise<void> {
  const { policy, scheduledBackups = [], verifications = [] } = input;
  const later = `kept on this host; acted on when the cluster ${cluster} is applied from here`;
  for (const manifest of scheduledBackups) {
    await host.state.scheduledBackups.save(manifest);
    say(RESOURCE.ScheduledBackup, manifest.metadata.name, later);
  }
  for (const manifest of verifications) {
    await host.state.scheduledVerifications.save(manifest);
    say(RESOURCE.ScheduledVerification, manifest.metadata.name, later);
  }
  if (!policy) return;
  await host.state.backupPolicies.save(policy);
  say(RESOURCE.BackupPolicy, policy.metadata.name, later);
}

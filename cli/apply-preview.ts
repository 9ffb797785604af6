import { isBackupError } from '../core/errors.ts';
import type { ApplyInput } from '../workflows/interface.ts';
import { refuseUnheldBackups } from './apply-backups.ts';
import type { ApplyPlan } from './apply-plan.ts';
import { previewByKeeper } from './apply-to-keeper.ts';
import { tellShorterWindows } from './apply-windows.ts';
import type { Host } from './host.ts';
import { saveWouldSay } from './object-stores.ts';
import { note } from './output.ts';
import { RESOURCE, say, sayResult } from './resource-lines.ts';

/** Says what `apply` would do, and does nothing. */
export async function preview(host: Host, plan: ApplyPlan): Promise<void> {
  const dry = ' (dry run)';
  for (const { metadata } of plan.secrets) say('secret', metadata.name, `would be kept on this host${dry}`);
  for (const { kind, manifest } of plan.kept) {
    if (kind !== 'ObjectStore') continue;
    say(RESOURCE.ObjectStore, manifest.metadata.name, `${await saveWouldSay(host.state, manifest)}${dry}`);
  }
  if (plan.keepers.length === 0) return;
  const temporal = await host.temporal().catch((error: unknown) => {
    if (!isBackupError(error, 'temporal-unavailable')) throw error;
    note(`walkeep: ${error.message}: it is not known what would change; the manifests themselves are valid`);
    return undefined;
  });
  const said = new Set<string>();
  for (const { namespace, cluster, input } of plan.keepers) {
    const would = temporal && (await previewByKeeper(temporal, namespace, cluster, input));
    if (temporal && !would) refuseUnheldBackups({ namespace, cluster }, input);
    if (would) sayResult(would, said, dry);
    else sayUnasked(cluster, input, `${temporal ? 'created' : 'valid'}${dry}`);
  }
  await tellShorterWindows(host, plan.keepers);
}

function sayUnasked(cluster: string, input: ApplyInput, what: string): void {
  if (input.cluster) say(RESOURCE.Cluster, cluster, what);
  if (input.policy) say(RESOURCE.BackupPolicy, input.policy.metadata.name, what);
  for (const { metadata } of input.scheduledBackups ?? []) say(RESOURCE.ScheduledBackup, metadata.name, what);
  for (const { metadata } of input.verifications ?? [])
    say(RESOURCE.ScheduledVerification, metadata.name, what);
  for (const { metadata } of input.backups ?? []) say(RESOURCE.Backup, metadata.name, what);
}

import type { Verification } from '../core/verification.ts';
import { bytesText, factsTable, table } from './page.ts';

/** A verification as the Web UI shows it under "current details". */
export function verificationPage(
  request: {
    readonly cluster: string;
    readonly namespace: string;
    readonly scheduledVerification?: string | undefined;
  },
  run: {
    readonly phase: string;
    readonly attempt: number;
    readonly queue?: string;
    readonly trouble?: string;
    readonly verification?: Verification;
    readonly error?: string;
  },
): string {
  const { verification: found } = run;
  return [
    `### Verification of ${request.cluster}: ${found ? found.result : run.phase}`,
    factsTable([
      ['cluster', `${request.namespace}/${request.cluster}`],
      ['rules', request.scheduledVerification],
      ['task queue', run.queue],
      ['attempt', run.attempt > 1 ? run.attempt : undefined],
      ['evidence', found?.id],
      ['backup', found?.backupId],
      ['target', found && [found.target.kind, found.target.value].filter(Boolean).join(' ')],
      [
        'reached',
        found?.reachedLsn &&
          `${found.reachedLsn} ${found.reachedTime ?? ''} on timeline ${found.timeline ?? '?'}`,
      ],
      [
        'time to recover',
        found?.rtoSeconds === undefined ? undefined : `${found.rtoSeconds} s (${partsOf(found)})`,
      ],
      [
        'data that would be lost',
        found?.rpoSeconds === undefined ? undefined : `the last ${found.rpoSeconds} s`,
      ],
      ['restored', found?.contentBytes === undefined ? undefined : bytesText(found.contentBytes)],
      ['PostgreSQL', found?.postgresVersion],
      ['on', found?.host && `${found.instance} (${found.host})`],
      ['error', run.error ?? found?.error],
      ['last attempt failed with', run.trouble],
    ]),
    ...(found && found.checks.length > 0
      ? [
          '',
          table(
            ['check', 'result', 'what', 'detail'],
            found.checks.map((check) => [check.name, check.result, check.object, check.detail]),
          ),
        ]
      : []),
    ...(found && found.warnings.length > 0 ? ['', ...found.warnings.map((warning) => `- ${warning}`)] : []),
    ...(run.phase === 'verifying'
      ? ['', 'Progress is in the heartbeats of the pending activity `verify`.']
      : []),
  ].join('\n');
}

function partsOf({ fetchSeconds = 0, replaySeconds = 0, startSeconds = 0 }: Verification): string {
  return `fetch ${fetchSeconds}, replay ${replaySeconds}, start ${startSeconds}`;
}

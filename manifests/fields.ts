import { z } from 'zod';
import { parseDuration } from '../core/duration.ts';
import { show, type Fault } from './problem.ts';

/** Text that a rule accepts; what the rule says of a refused one reaches the user together with its fix. */
export function textThat(rule: (text: string) => Fault | undefined) {
  return z.string().superRefine((text, context) => {
    const fault = rule(text);
    if (fault) context.addIssue({ code: 'custom', message: fault.message, params: { fix: fault.fix } });
  });
}

/** A switch. `yes`, `no`, `on` and `off` are taken too: kubectl's YAML reads them as booleans. */
export const flag = z.preprocess((value) => {
  if (value === 'yes' || value === 'on') return true;
  return value === 'no' || value === 'off' ? false : value;
}, z.boolean());

const DNS_LABEL = /^[a-z0-9]([-a-z0-9]*[a-z0-9])?$/;

/** What is wrong with `text` as the name of an object (RFC 1123, as Kubernetes has it); such names can't leave a folder. */
export function nameFault(text: string, longest = 253): Fault | undefined {
  const valid = text.length <= longest && text.split('.').every((label) => DNS_LABEL.test(label));
  if (valid) return undefined;
  const proposal = text
    .toLowerCase()
    .replace(/[^a-z0-9.-]+/g, '-')
    .replace(/\.{2,}/g, '.')
    .replace(/^[^a-z0-9]+|[^a-z0-9]+$/g, '')
    .slice(0, longest);
  return {
    message: `${show(text)} can not be a name`,
    fix: `use lower-case letters, digits and - only, at most ${longest} characters${proposal !== '' && nameFault(proposal, longest) === undefined ? `, such as "${proposal}"` : ''}`,
  };
}

/** The name of an object. */
export const objectName = textThat((text) => nameFault(text));

/** The name of a namespace: one DNS label. */
export const namespaceName = textThat((text) =>
  text.includes('.')
    ? { message: `${show(text)} can not be a namespace`, fix: 'use lower-case letters, digits and - only' }
    : nameFault(text, 63),
);

/** A key inside a Secret. */
export function secretKeyFault(text: string): Fault | undefined {
  if (/^[-._a-zA-Z0-9]{1,253}$/.test(text) && !text.startsWith('..') && text !== '.') return undefined;
  return {
    message: `${show(text)} can not be a key of a Secret`,
    fix: 'use letters, digits, -, _ and . only, such as ACCESS_KEY_ID',
  };
}

/** Where a secret value is: never the value itself. */
export const secretKeySelector = z.object({ name: objectName, key: textThat(secretKeyFault) });
export type SecretKeySelector = z.infer<typeof secretKeySelector>;

export const textMap = z.record(z.string(), z.string());

/** Text without control characters and not empty. */
export const plainText = textThat((text) =>
  text === '' || /[\u0000-\u001f\u007f]/.test(text)
    ? { message: `${show(text)} is empty or holds control characters`, fix: 'write plain text' }
    : undefined,
);

/** A duration of walkeep's own kinds, such as `26h`; never zero. */
export const durationText = textThat((text) => {
  try {
    if (parseDuration(text) > 0) return undefined;
  } catch {
    // said below, in one way for both
  }
  return { message: `${show(text)} is no duration`, fix: 'write a number and a unit: 90s, 10m, 26h, 8d' };
});

/** A percentage such as `20%`. */
export const percentageText = textThat((text) =>
  /^(100|[1-9]?[0-9])%$/.test(text)
    ? undefined
    : { message: `${show(text)} is no percentage`, fix: 'write it from 0% to 100%, such as 20%' },
);

/** Additional arguments for barman's commands, which walkeep does not run. */
export const commandArguments = z.array(z.string()).optional();

-- Notices about logins: codes and links that prove who somebody is, and what happened to a login.

insert into loyalty_private.notice_kind
       (kind, place, is_chosen, can_be_refused, proof, context_function, example, optional)
values ('verification_code', 11, false, false, 'code', 'loyalty_private.challenge_context', '{"en": {}}', '[]'),
       ('login_in_use', 12, false, false, 'code', 'loyalty_private.challenge_context', '{"en": {}}', '[]'),
       ('password_reset', 13, false, false, 'link', 'loyalty_private.challenge_context', '{"en": {}}', '[]'),
       ('unlock', 14, false, false, 'link', 'loyalty_private.challenge_context', '{"en": {}}', '[]'),
       ('login_change', 15, false, false, 'link', 'loyalty_private.challenge_context', '{"en": {}}', '[]'),
       ('login_approved', 16, false, false, 'link', 'loyalty_private.challenge_context', '{"en": {}}', '[]'),
       ('password_changed', 17, false, false, null, null, '{"en": {}}', '[]'),
       ('login_changed', 18, false, false, null, null, '{"en": {}}', '[]');
